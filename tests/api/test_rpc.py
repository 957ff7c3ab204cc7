"""The gRPC server with a real client."""

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from openoutcry.api.rpc import RpcServer


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


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[bytes, bytes]:
    """A key and a certificate of localhost."""
    key, chain = tmp_path / "key.pem", tmp_path / "chain.pem"
    how = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    asked = [
        "openssl",
        *how.split(),
        "-addext",
        "subjectAltName=DNS:localhost",
        "-keyout",
        str(key),
        "-out",
        str(chain),
    ]
    if shutil.which("openssl") is None or subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("no openssl to make a certificate with")
    return key.read_bytes(), chain.read_bytes()


async def test_it_speaks_tls_when_given_a_key(certificate: tuple[bytes, bytes]) -> None:
    server = RpcServer((), "127.0.0.1", 0, tls=certificate)
    _, _, port = (await server.start()).rpartition(":")
    trusted = grpc.ssl_channel_credentials(certificate[1])
    async with grpc.aio.secure_channel(f"localhost:{port}", trusted) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING
    await server.stop()
