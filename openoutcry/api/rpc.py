"""One gRPC server, every dialect's services: with reflection, health, and TLS as an option."""

from collections.abc import Iterable

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from openoutcry.api.dialect import Service

MESSAGE_IN_BYTES_MAX = 4 * 1024 * 1024
MESSAGE_OUT_BYTES_MAX = 64 * 1024 * 1024
METADATA_BYTES_MAX = 16 * 1024
CALLS_MAX = 10_000
STREAMS_PER_CONNECTION_MAX = 100
# A connection that does not answer a ping is cut: its client vanished, and its calls with it.
PING_S, PONG_S_MAX = 30.0, 20.0
# Clients may ping so often, on calls that say nothing for a while.
PINGED_S_MIN = 10.0
STOP_S_MAX = 2.0


class RpcServer:
    """Serves on `host:port` (0: any free port) until stopped. `tls`: private key and certificate chain, as PEM."""

    def __init__(
        self, services: Iterable[Service], host: str, port: int, tls: tuple[bytes, bytes] | None = None
    ) -> None:
        self._services = tuple(services)
        self._host = host
        self._port = port
        self._tls = tls
        self._server: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()

    async def start(self) -> str:
        """Listen; returns `host:port` as bound. Raises OSError when the port is taken."""
        server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", MESSAGE_IN_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_OUT_BYTES_MAX),
                ("grpc.max_metadata_size", METADATA_BYTES_MAX),
                ("grpc.max_concurrent_streams", STREAMS_PER_CONNECTION_MAX),
                ("grpc.keepalive_time_ms", round(PING_S * 1_000)),
                ("grpc.keepalive_timeout_ms", round(PONG_S_MAX * 1_000)),
                ("grpc.http2.min_ping_interval_without_data_ms", round(PINGED_S_MIN * 1_000)),
            ],
            maximum_concurrent_rpcs=CALLS_MAX,
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        for service in self._services:
            service.add(server)
        names = [service.name for service in self._services]
        told = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(told, server, pool=_described(self._services))
        address = f"[{self._host}]" if ":" in self._host else self._host
        port = self._bind(server, f"{address}:{self._port}")
        await server.start()
        self._server = server
        for name in ("", *names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return f"{address}:{port}"

    async def stop(self) -> None:
        """Say that we leave, let calls end for two seconds, then cut them. A second call does nothing."""
        server, self._server = self._server, None
        if server is not None:
            await self._health.enter_graceful_shutdown()
            for service in self._services:
                service.leave()
            await server.stop(STOP_S_MAX)

    def _bind(self, server: grpc.aio.Server, address: str) -> int:
        try:
            if self._tls is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, grpc.ssl_server_credentials([self._tls]))
        except RuntimeError as e:  # grpcio's way to say that it cannot bind
            raise OSError(f"gRPC cannot listen on {address}") from e
        if not port:
            raise OSError(f"gRPC cannot listen on {address}")
        return int(port)


def address(peer: str) -> str:
    """Of a caller: `ipv4:127.0.0.1:5000`, `ipv6:%5B::1%5D:5000` without its family and port."""
    family, _, rest = peer.partition(":")
    host = rest.rpartition(":")[0] if family in ("ipv4", "ipv6") else peer
    return host.replace("%5B", "").replace("%5D", "").strip("[]")


def _described(services: Iterable[Service]) -> descriptor_pool.DescriptorPool:
    """All that reflection may be asked about, in a pool of its own: services of two contracts may use one file name."""
    pool = descriptor_pool.DescriptorPool()
    known: set[str] = set()
    own = (health_pb2.DESCRIPTOR.serialized_pb, reflection_pb2.DESCRIPTOR.serialized_pb)
    for serialised in (*own, *(file for service in services for file in service.files)):
        file = descriptor_pb2.FileDescriptorProto.FromString(serialised)
        if file.name not in known:
            known.add(file.name)
            pool.Add(file)
    return pool
