// grpc-js with the served .proto files: node client.cjs PROTO_FOLDER ADDRESS KEY START_S
// Prints a JSON line for each step of the conversation; after "live" it waits for what is told then.
const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");

const [folder, address, key, start] = process.argv.slice(2);
const definition = loader.loadSync("api/api.proto", {
  keepCase: true,
  longs: Number,
  enums: String,
  includeDirs: ["service", "lib", "types"].map((root) => `${folder}/${root}`),
});
const { API } = grpc.loadPackageDefinition(definition).api;
const client = new API(address, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("x-kiyotaka-key", key);

const say = (step, told) => process.stdout.write(JSON.stringify({ step, told }) + "\n");
const rows = (series) =>
  series.points
    .map((point) => point.tradeSideAgnosticAggregation)
    .map((candle) => [candle.timestamp.seconds, candle.close]);
const call = (method, request, sent) =>
  new Promise((resolve, reject) =>
    client[method](request, sent, (error, answer) => (error ? reject(error) : resolve(answer))),
  );
const failed = (request, sent) => call("GetPoints", request, sent).then(() => 0, (error) => error.code);

async function main() {
  const request = {
    type: ["TRADE_SIDE_AGNOSTIC_AGG"],
    exchange: ["BINANCE"],
    rawSymbol: ["BTCUSDT"],
    interval: "MINUTE",
    from: Number(start),
    period: 120,
  };
  say("types", (await call("GetTypes", {}, metadata)).types);
  say("points", (await call("GetPoints", request, metadata)).series.flatMap(rows));
  const replayed = [];
  for await (const series of client.StreamPoints(request, metadata)) replayed.push(...rows(series));
  say("replay", replayed);
  say("errors", [
    await failed(request, new grpc.Metadata()),
    await failed({ type: ["TRADE_AGG"], period: 60 }, metadata),
  ]);
  const steps = ["live", "told"];
  const stream = client.StreamPoints({ ...request, period: 0 }, metadata);
  stream.on("error", () => {});
  stream.on("data", (series) => {
    if (steps.length) say(steps.shift(), rows(series));
    if (!steps.length) {
      stream.cancel();
      client.close();
    }
  });
}

main();
