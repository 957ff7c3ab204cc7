// Open interest of BTC on every exchange, hour by hour, as Kiyotaka's JavaScript SDK asks.
// node points.cjs HOST:PORT KEY, with the tree of /proto/ in the folder `proto` (docs/kiyotaka.md).
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [address, key] = process.argv.slice(2);
const includeDirs = ["service", "lib", "types"].map((root) => `proto/${root}`);
const options = { keepCase: true, longs: Number, enums: String, includeDirs };
const { API } = grpc.loadPackageDefinition(loader.loadSync("api/api.proto", options)).api;
const client = new API(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("x-kiyotaka-key", key);

client.GetPoints({ type: ["OPEN_INTEREST_AGG"], coin: ["BTC"], interval: "HOUR", period: 86400 }, metadata, (error, answer) => {
  if (error) throw error;
  for (const { id, points } of answer.series) {
    for (const { openInterestAggregation: bar } of points) console.log(id.exchange, id.rawSymbol, bar.timestamp.seconds, bar.close);
  }
  client.close();
});
