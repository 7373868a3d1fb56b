"""A certificate authority for tests: issues certificates of servers and clients that only its own peers trust."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


class Authority:
    """Issues certificates for host names and addresses; `folder` takes the files that `ssl` wants."""

    def __init__(self, folder: Path, *, valid_for: timedelta = timedelta(hours=1)) -> None:
        self._folder = folder
        self._valid_for = valid_for
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self._certificate = self._sign(self._name, self._key.public_key(), is_authority=True, names=[])

    def server_tls(self, *names: str) -> ssl.SSLContext:
        """Give the TLS settings of a server with a certificate for the names."""
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self.write_server_file(*names))
        return tls

    def write_server_file(self, *names: str) -> Path:
        """Write a server's certificate for the names and its key into one file."""
        certificate, key = self._issue([x509.NameAttribute(NameOID.COMMON_NAME, names[0])], list(names))
        path = self._folder / f"{x509.load_pem_x509_certificate(certificate.encode()).serial_number}.pem"
        path.write_text(key + certificate)
        return path

    def write_certificate(self) -> Path:
        """Write this authority's own certificate into a file."""
        path = self._folder / "authority.pem"
        path.write_text(self.pem)
        return path

    def client_certificate(self, common_name: str, *, user_id: str) -> tuple[str, str]:
        """Give a client's certificate and private key as PEM; `user_id` is where Apple's name the topic."""
        subject = [
            x509.NameAttribute(NameOID.USER_ID, user_id),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
        return self._issue(subject, [])

    @property
    def pem(self) -> str:
        """The authority's own certificate."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def trust(self, tls: ssl.SSLContext) -> ssl.SSLContext:
        """Make a client's TLS settings trust this authority; gives them back."""
        tls.load_verify_locations(cadata=self.pem)
        return tls

    def _issue(self, subject: list[x509.NameAttribute[str]], names: list[str]) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name(subject), key.public_key(), is_authority=False, names=names)
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return certificate.public_bytes(Encoding.PEM).decode(), key_pem

    def _sign(
        self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey, *, is_authority: bool, names: list[str]
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + self._valid_for)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(name) for name in names]), critical=False
            )
        return builder.sign(self._key, SHA256())


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
