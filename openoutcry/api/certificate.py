"""A certificate that signs itself, for a server that nobody but its own callers need to believe."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import msgspec

from openoutcry.clock import NS
from openoutcry.errors import Invalid, NotConfigured

CERTIFICATE_NAME = "certificate.pem"
KEY_NAME = "key.pem"
KEY_MODE = 0o600
HOSTS_MAX = 100
DAYS_MAX = 3_650
# Clocks differ: a certificate of this moment must hold for a caller whose clock is behind.
BEFORE = timedelta(hours=1)


class Pem(msgspec.Struct, frozen=True):
    """A certificate and its key as PEM."""

    certificate: bytes
    key: bytes


def self_signed(hosts: Sequence[str], days: int, now_ns: int) -> Pem:
    """A certificate for those names and addresses. Raises Invalid; NotConfigured without the extra `tls`."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as e:
        raise NotConfigured("certificates need the extra `tls`: pip install 'openoutcry[tls]'") from e
    if not 0 < len(hosts) <= HOSTS_MAX or not 0 < days <= DAYS_MAX:
        raise Invalid(f"a certificate is for 1 to {HOSTS_MAX} hosts and 1 to {DAYS_MAX} days")
    names = [x509.IPAddress(ip_address(host)) if _is_address(host) else x509.DNSName(_dns_name(host)) for host in hosts]
    key = ec.generate_private_key(ec.SECP256R1())
    # The name is for people; callers look at the hosts.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "openoutcry")])
    now = datetime.fromtimestamp(now_ns // NS, UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        # Callers take it as their root, but it can vouch for no other certificate.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Pem(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )


def write(pem: Pem, folder: Path, *, force: bool) -> tuple[Path, Path]:
    """Put both into `folder`, made if absent; gives the paths. Raises Invalid where one is there and `force` is not."""
    certificate, key = folder / CERTIFICATE_NAME, folder / KEY_NAME
    for path in (certificate, key):
        if path.exists() and not force:
            raise Invalid(f"{path} is there already: --force replaces it, --folder names another place")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path, text, mode in ((key, pem.key, KEY_MODE), (certificate, pem.certificate, 0o644)):
        # A new file in place of the old one: nobody who had the old one open, or could, reads the new key.
        draft = path.with_name(f"{path.name}.new")
        draft.unlink(missing_ok=True)
        made = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(made, "wb") as file:
            file.write(text)
        draft.replace(path)
    return certificate, key


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _dns_name(host: str) -> str:
    """The name as certificates hold it: in ASCII, `*` allowed as its first part. Raises Invalid."""
    try:
        name = host.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not all(part.replace("-", "a").replace("_", "a").isalnum() for part in name.removeprefix("*.").split(".")):
        raise Invalid(f"{host!r} is no host: name one such as data.example.org, or an address")
    return name
