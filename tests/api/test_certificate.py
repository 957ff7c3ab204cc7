"""Certificates that sign themselves: what is in them, and where they are put."""

import os
import socket
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from openoutcry.api.certificate import DAYS_MAX, HOSTS_MAX, Pem, self_signed, write
from openoutcry.clock import NS, SystemClock
from openoutcry.errors import Invalid

NOW_NS = 1_763_553_600 * NS
NOW = datetime(2025, 11, 19, 12, tzinfo=UTC)


def names(pem: Pem) -> list[object]:
    found = x509.load_pem_x509_certificate(pem.certificate).extensions
    return [each.value for each in found.get_extension_for_class(x509.SubjectAlternativeName).value]


def test_it_is_for_the_hosts_that_were_named() -> None:
    hosts = ["localhost", "127.0.0.1", "::1", "*.example.org", "bücher.example", "my_host"]
    assert names(self_signed(hosts, 1, NOW_NS)) == [
        "localhost",
        ip_address("127.0.0.1"),
        ip_address("::1"),
        "*.example.org",
        "xn--bcher-kva.example",
        "my_host",
    ]


def test_it_holds_from_a_little_before_now_for_so_many_days() -> None:
    made = x509.load_pem_x509_certificate(self_signed(["localhost"], 30, NOW_NS).certificate)
    assert made.not_valid_before_utc == NOW - timedelta(hours=1)
    assert made.not_valid_after_utc == NOW + timedelta(days=30)


def test_no_two_are_alike() -> None:
    first, second = (self_signed(["localhost"], 1, NOW_NS) for _ in range(2))
    assert first.key != second.key
    assert first.certificate != second.certificate


@pytest.mark.parametrize("host", ["", "a b", "a..b", "http://x", "x:1", "*", "a.*", "x" * 64, "1.2.3.4/24"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(Invalid, match="is no host"):
        self_signed(["localhost", host], 1, NOW_NS)


@pytest.mark.parametrize(("hosts", "days"), [([], 1), (["a"] * (HOSTS_MAX + 1), 1), (["a"], 0), (["a"], DAYS_MAX + 1)])
def test_hosts_and_days_have_limits(hosts: list[str], days: int) -> None:
    with pytest.raises(Invalid, match="1 to 100 hosts and 1 to 3650 days"):
        self_signed(hosts, days, NOW_NS)


def test_openssl_at_its_strictest_believes_it(tmp_path: Path) -> None:
    chain, key = write(self_signed(["localhost"], 1, SystemClock().now_ns()), tmp_path, force=False)
    caller = ssl.create_default_context(cafile=str(chain))
    caller.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    with (
        listening(chain, key) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as raw,
        caller.wrap_socket(raw, server_hostname="localhost") as spoken,
    ):
        assert spoken.recv(2) == b"hi"


@contextmanager
def listening(chain: Path, key: Path) -> Iterator[int]:
    """A TLS server for one caller."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def once() -> None:
            with server.accept()[0] as raw, context.wrap_socket(raw, server_side=True) as spoken:
                spoken.sendall(b"hi")

        thread = threading.Thread(target=once)
        thread.start()
        yield server.getsockname()[1]
        thread.join(10)


def test_the_key_is_for_its_owner_alone_whatever_the_mask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        chain, key = write(Pem(b"certificate", b"key"), tmp_path / "deep" / "tls", force=False)
    finally:
        os.umask(before)
    assert (chain.read_bytes(), key.read_bytes()) == (b"certificate", b"key")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in chain.parent.iterdir()}
    assert modes == {"certificate.pem": 0o644, "key.pem": 0o600}


@pytest.mark.parametrize("there", ["certificate.pem", "key.pem"])
def test_nothing_is_replaced_unless_that_is_asked_for(tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_bytes(b"old")
    (tmp_path / there).chmod(0o666)
    with pytest.raises(Invalid, match=f"{there} is there already: --force replaces it"):
        write(Pem(b"certificate", b"key"), tmp_path, force=False)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(there, b"old")]
    with (tmp_path / there).open("rb") as held:
        _, key = write(Pem(b"certificate", b"key"), tmp_path, force=True)
        assert held.read() == b"old", "who had the old file open does not read the new one"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
