"""TLS: the server's certificate and key, looked at before anything is opened; and how a command on the machine knows it."""

import ssl
from pathlib import Path

from service.errors import RefusedToStart, SettingsError
from service.settings import Settings

_END = "-----END CERTIFICATE-----"


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


def own_server(settings: Settings) -> ssl.SSLContext:
    """How to reach the server of these settings: the certificate that it has, and no other, whoever has signed that.

    The name is not looked at: the server is on this machine, and its certificate is for its name in the network.

    Raises:
        RefusedToStart: the settings name no certificate, or none that can be read.
    """
    if not settings.tls_certificate:
        raise RefusedToStart(
            "The server speaks TLS: set CHATLEDGER_TLS_CERTIFICATE here as there, so that this command knows it."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        own, end, _ = Path(settings.tls_certificate).read_text().partition(_END)
        context.load_verify_locations(cadata=own + end)  # the first is the server's own (RFC 8446 section 4.4.2)
    except (OSError, ValueError) as error:
        raise RefusedToStart(f"The TLS certificate {settings.tls_certificate} cannot be read.") from error
    return context
