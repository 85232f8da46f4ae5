"""Who is let in: certificates, revocation and TLS."""

import socket
import ssl
import subprocess
from datetime import timedelta

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fedloom_client.device.identity import Identity, new_request
from fedloom_server.fleet.authority import Authority

from .raw import Raw, hello

pytestmark = pytest.mark.usefixtures("goes_on")


def test_without_a_certificate_there_is_no_connection(site, raw):
    device = Raw(site, grpc.ssl_channel_credentials(site.fleet.authority.pem))
    assert device.say(hello()).refusal()[0] == "UNAVAILABLE"
    assert not site.coordinator.connected()


def test_a_certificate_of_another_authority_is_no_connection(site, raw):
    other = Authority.create()
    key, request = new_request("a")
    certificate = other.issue_device("a", request).public_bytes(Encoding.PEM)
    identity = Identity.of(key + certificate, site.fleet.authority.pem)
    assert raw(identity=identity).say(hello()).refusal()[0] == "UNAVAILABLE"


def test_an_expired_certificate_is_no_connection(site, raw):
    key, request = new_request("a")
    certificate = site.fleet.authority.issue_device("a", request, timedelta(seconds=-5))
    identity = Identity.of(key + certificate.public_bytes(Encoding.PEM), site.fleet.authority.pem)
    assert raw(identity=identity).say(hello()).refusal()[0] == "UNAVAILABLE"


def test_a_certificate_that_the_registry_does_not_know_is_refused(site, raw):
    key, request = new_request("a")
    certificate = site.fleet.authority.issue_device("a", request)
    identity = Identity.of(key + certificate.public_bytes(Encoding.PEM), site.fleet.authority.pem)
    code, reason = raw(identity=identity).say(hello()).refusal()
    assert (code, reason) == ("PERMISSION_DENIED", "certificate: a is not in the fleet's registry")


def test_a_revoked_device_is_refused_and_said_so_in_the_log(site, raw, caplog):
    identity = site.identity("a")
    site.fleet.registry.revoke("a")
    assert raw(identity=identity).say(hello()).refusal() == (
        "PERMISSION_DENIED",
        "certificate: a was revoked",
    )
    assert "certificate: a was revoked" in caplog.text
    assert site.events("device-refused") == [{"device": "a", "reason": "certificate: a was revoked"}]


def test_revocation_ends_a_live_stream(site, raw):
    device = raw().say(hello())
    device.next("welcome")
    site.fleet.registry.revoke("a")
    assert device.refusal() == ("PERMISSION_DENIED", "certificate: a was revoked")


def test_the_coordinators_certificate_is_no_device(site, raw):
    key, certificate = site.fleet.coordinator
    identity = Identity.of(key + certificate, site.fleet.authority.pem)
    assert raw(identity=identity).say(hello("coordinator")).refusal()[0] in (
        "UNAVAILABLE",
        "PERMISSION_DENIED",
    )


def test_a_device_of_the_fleet_is_no_coordinator(site):
    """A stolen device key must not serve as a coordinator's: it is for clients only."""
    _, request = new_request("a")
    certificate = site.fleet.authority.issue_device("a", request)
    uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(uses) == [x509.ExtendedKeyUsageOID.CLIENT_AUTH]


def test_only_tls_1_3_is_spoken(site):
    def handshake(version):
        context = ssl.create_default_context(cadata=site.fleet.authority.pem.decode())
        context.minimum_version = context.maximum_version = version
        with socket.create_connection(("127.0.0.1", site.port)) as plain:
            return context.wrap_socket(plain, server_hostname="127.0.0.1").version()

    assert handshake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(OSError):
        handshake(ssl.TLSVersion.TLSv1_2)


def test_openssl_sees_the_certificate_as_we_do(site, tmp_path):
    (tmp_path / "ca.pem").write_bytes(site.fleet.authority.pem)
    (tmp_path / "leaf.pem").write_bytes(site.fleet.coordinator[1])
    done = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "ca.pem", "leaf.pem"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
