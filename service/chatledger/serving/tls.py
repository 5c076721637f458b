"""TLS: the certificate and key, looked at before anything is opened; and how a command on the machine knows them."""

import ssl
from pathlib import Path

from chatledger.errors import SettingsError
from chatledger.settings import Settings

_BEGIN, _END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"


def check_files(settings: Settings) -> None:
    """Look whether the certificate and the key are there and belong together; nothing, where TLS is off.

    Raises:
        SettingsError: only one of the two is set, or they cannot be used.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if bool(certificate) != bool(key):
        raise SettingsError("CHATLEDGER_TLS_CERTIFICATE and CHATLEDGER_TLS_KEY are set both or neither.")
    if not certificate:
        return
    try:
        # No password: a server that waits for one at its terminal does not come up by itself.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(
            f"The TLS certificate {certificate} and the key {key} cannot be used: {str(reason).replace('_', ' ')}."
        ) from error


def own_certificate(settings: Settings) -> str:
    """The server's own certificate as PEM: the file's first one (RFC 8446 section 4.4.2). Empty, where TLS is off."""
    if not settings.tls_certificate:
        return ""
    # As bytes: what stands around it is in whatever encoding.
    own, end, _ = Path(settings.tls_certificate).read_bytes().partition(_END)
    return (own[max(own.find(_BEGIN), 0) :] + end).decode("ascii", "replace")


def trusting(certificate: str) -> ssl.SSLContext:
    """How to reach the server that has this *certificate*: it, and no other, whoever has signed that.

    The name is not looked at: the server is on this machine, and its certificate is for its name in the network.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=certificate)
    return context
