"""What librdkafka says of its connections, as sentences."""

import logging

import pytest

from confluent_kafka import KafkaError as Code

from streamapp.kafka.connection_errors import FRESH_SECONDS, ConnectionErrors, LibraryLog, sentence


REFUSED = Code(
    Code._TRANSPORT,
    "k:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state "
    "CONNECT)",
)
DOWN = Code(Code._ALL_BROKERS_DOWN, "0/2 brokers are down")


@pytest.mark.parametrize(
    ("code", "text", "said"),
    [
        (
            Code._RESOLVE,
            "no.where:9092/bootstrap: Failed to resolve 'no.where:9092': Name or service not known",
            "the host name of no.where:9092 is not known",
        ),
        (Code._TRANSPORT, REFUSED.str(), "k:1 refuses the connection"),
        (
            Code._TRANSPORT,
            "[::1]:9092/3: Connection setup timed out in state CONNECT (after 30000ms)",
            "[::1]:9092 does not answer",
        ),
        (
            Code._TRANSPORT,
            (
                "k:9093/bootstrap: Disconnected while requesting ApiVersion: might be caused by "
                "incorrect security.protocol configuration (connecting to a SSL listener?)"
            ),
            "k:9093 ends the connection at once: it may expect TLS or a login",
        ),
        (
            Code._SSL,
            (
                "ssl://k:9093/bootstrap: SSL handshake failed: error:0A000086:SSL routines::"
                "certificate verify failed (after 2ms in state SSL_HANDSHAKE)"
            ),
            "the TLS connection to k:9093 fails: wrong port, or a certificate that is not trusted",
        ),
        (
            Code._AUTHENTICATION,
            "sasl_ssl://k:9093/bootstrap: SASL authentication error: Authentication failed",
            "k:9093 refuses the login",
        ),
        (Code.SASL_AUTHENTICATION_FAILED, "no", "the broker refuses the login"),
        (Code._TRANSPORT, "k:9092/1: Disconnected (after 3ms in state UP)", ""),
        (Code._ALL_BROKERS_DOWN, DOWN.str(), ""),
        (Code._MAX_POLL_EXCEEDED, "Application maximum poll interval exceeded", ""),
    ],
)
def test_sentence(code, text, said):
    """Each reason that a user can do something about is a sentence that names the broker."""
    assert said == sentence(Code(code, text))


def test_newest():
    """The newest reason counts, a line without one leaves it, and it does not last for ever."""
    now = [0.0]
    trouble = ConnectionErrors(lambda: now[0])
    assert "" == trouble.reason

    trouble.note(REFUSED)
    trouble.note(DOWN)
    now[0] = FRESH_SECONDS - 1
    assert "k:1 refuses the connection" == trouble.reason
    now[0] = FRESH_SECONDS
    assert "" == trouble.reason


def test_lines(caplog):
    """Whatever level a line of librdkafka has, it is for who debugs."""
    with caplog.at_level(logging.DEBUG):
        LibraryLog().log(logging.CRITICAL, "%s [%s] %s", "FAIL", "rdkafka", "100 % text")
    assert [(logging.DEBUG, "FAIL [rdkafka] 100 % text")] == [
        (record.levelno, record.getMessage()) for record in caplog.records
    ]
