"""The gRPC server with a real client."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from openoutcry.api.certificate import self_signed
from openoutcry.api.rpc import RpcServer
from openoutcry.clock import SystemClock


async def test_it_serves_health_and_reflection_on_a_free_port() -> None:
    server = RpcServer((), "127.0.0.1", 0)
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        call = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([ask]))
        listed = [one.name async for answer in call for one in answer.list_services_response.service]
        assert "grpc.health.v1.Health" in listed
    await server.stop()
    await server.stop()


async def test_a_port_that_is_taken_is_an_error_at_once() -> None:
    first = RpcServer((), "127.0.0.1", 0)
    _, _, port = (await first.start()).rpartition(":")
    with pytest.raises(OSError, match="cannot listen"):
        await RpcServer((), "127.0.0.1", int(port)).start()
    await first.stop()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_it_speaks_tls_when_given_a_key(host: str) -> None:
    made = self_signed(["localhost", "127.0.0.1"], 1, SystemClock().now_ns())
    server = RpcServer((), "127.0.0.1", 0, tls=(made.key, made.certificate))
    _, _, port = (await server.start()).rpartition(":")
    trusted = grpc.ssl_channel_credentials(made.certificate)
    async with grpc.aio.secure_channel(f"{host}:{port}", trusted) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop()


async def test_a_caller_that_asks_for_another_host_is_warned() -> None:
    made = self_signed(["data.example.org"], 1, SystemClock().now_ns())
    server = RpcServer((), "127.0.0.1", 0, tls=(made.key, made.certificate))
    _, _, port = (await server.start()).rpartition(":")
    trusted = grpc.ssl_channel_credentials(made.certificate)
    async with grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.stop()
