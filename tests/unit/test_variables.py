"""Variables: those that were meant for us and are not ours are refused; other programs' are passed over."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chatledger.errors import SettingsError
from chatledger.setting_sources import OF_CLIENTS, is_service_link
from chatledger.settings import Settings, expected, load_settings, read_settings, variable_of

NO_FILE = Path("/nonexistent/.env")
VARIABLES = [variable_of(field.name) for field in msgspec.structs.fields(Settings)]


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    """Where a `.env` is written."""
    return tmp_path / ".env"


def refused(environment: dict[str, str] | None = None, *, dotenv: Path = NO_FILE) -> str:
    """Why the settings are refused."""
    with pytest.raises(SettingsError) as error:
        load_settings(environment or {}, dotenv=dotenv)
    return str(error.value)


# Names


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABASE_PTH", "DATABASE_PATH"),
        ("DATABSE_PATH", "DATABASE_PATH"),
        ("DATABASEPATH", "DATABASE_PATH"),
        ("DATABASE_PATHS", "DATABASE_PATH"),
        ("database_path", "DATABASE_PATH"),
        ("CHATLEDGER_PROT", "CHATLEDGER_PORT"),
        ("CHATLEGER_PORT", "CHATLEDGER_PORT"),
        ("chatledger_port", "CHATLEDGER_PORT"),
        ("CHAT_LEDGER_LOG_LEVEL", "CHATLEDGER_LOG_LEVEL"),
        ("CHATLEDGER_DATABASE_PATH", "DATABASE_PATH"),
        ("CHATLEDGER_APIKEY", "CHATLEDGER_API_KEY"),
    ],
)
def test_a_misspelt_name_is_refused_with_the_one_that_was_meant(name: str, meant: str, dotenv: Path) -> None:
    """In the environment, and in the file with its line."""
    assert refused({name: "x"}) == f"{name} is not a setting of chatledger. Did you mean {meant}?"
    dotenv.write_text(f"# settings\n\n{name}=x\n")
    assert refused(dotenv=dotenv) == f"{dotenv}, line 3: {name} is not a setting of chatledger. Did you mean {meant}?"


def test_a_name_behind_our_prefix_that_is_like_none_is_refused_too() -> None:
    """It says how to find out which there are; an empty one as well."""
    for text in ("x", ""):
        said = refused({"CHATLEDGER_ZZZZZZ": text})
        assert said == "CHATLEDGER_ZZZZZZ is not a setting of chatledger. `chatledger settings` shows which there are."


@pytest.mark.parametrize(
    "name",
    [
        *("DATABASE_URL", "DATABASE_HOST", "DATABASE_PORT", "DATABASE_PASSWORD", "DB_PATH", "PORT", "HOST", "PATH"),
        *("WORKERS", "LOG_LEVEL", "API_KEY", "URL", "TEST_DATABASE_PATH", "MY_DATABASE_PATH", "CHAT_PORT"),
    ],
)
def test_other_programs_variables_are_passed_over(name: str, dotenv: Path) -> None:
    """A `.env` is often shared by several."""
    dotenv.write_text(f"{name}=x\n")
    assert load_settings({name: "x"}, dotenv=dotenv) == Settings()


def test_a_name_that_is_near_to_one_that_is_set_is_somebody_elses(dotenv: Path) -> None:
    """Whoever has set the right one has not misspelt it."""
    dotenv.write_text("DATABASE_PATH=a.db\nDATABASE_PATHS=x\n")
    assert load_settings({"DATABASE_PATH_2": "y"}, dotenv=dotenv).database_path == "a.db"
    assert "DATABASE_PATHS" in refused({"DATABASE_PATHS": "x", "DATABASE_PATH": ""})


def test_what_clients_read_is_known_to_all(dotenv: Path) -> None:
    """And no setting of ours."""
    dotenv.write_text("".join(f"{name}=x\n" for name in OF_CLIENTS))
    assert {"CHATLEDGER_API_KEY", "CHATLEDGER_URL"} == OF_CLIENTS
    assert load_settings(dict.fromkeys(OF_CLIENTS, "x"), dotenv=dotenv) == Settings()


# Kubernetes


def of_a_service(name: str, host: str, port: int, protocol: str = "tcp", port_name: str = "") -> dict[str, str]:
    """What each pod of a namespace gets for a Service of this *name* (client-go, pkg/kubelet/envvars)."""
    prefix = name.upper().replace("-", "_")
    shown = f"[{host}]" if ":" in host else host
    link = f"{protocol}://{shown}:{port}"
    each = f"{prefix}_PORT_{port}_{protocol.upper()}"
    named = {f"{prefix}_SERVICE_PORT_{port_name.upper().replace('-', '_')}": str(port)} if port_name else {}
    return named | {
        f"{prefix}_SERVICE_HOST": host,
        f"{prefix}_SERVICE_PORT": str(port),
        f"{prefix}_PORT": link,
        each: link,
        f"{each}_PROTO": protocol,
        f"{each}_PORT": str(port),
        f"{each}_ADDR": host,
    }


@pytest.mark.parametrize("name", ["chatledger", "chatledger-api", "chatledger-metrics", "chatledger-2-headless"])
@pytest.mark.parametrize("host", ["10.43.0.7", "fd00::1:7"])
def test_services_of_kubernetes_are_passed_over(name: str, host: str, dotenv: Path) -> None:
    """With all of their forms; what the file says of a setting of the same name still counts."""
    dotenv.write_text("CHATLEDGER_PORT=8001\nCHATLEDGER_METRICS_PORT=9001\n")
    links = of_a_service(name, host, 8000, port_name="http-api") | of_a_service(name, host, 53, protocol="udp")
    found = load_settings(links, dotenv=dotenv)
    assert (found.port, found.metrics_port) == (8001, 9001)
    assert load_settings(links, dotenv=NO_FILE) == Settings()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CHATLEDGER_PORT", "http://10.0.0.1:80"),
        ("CHATLEDGER_PORT", "tcp://chatledger:80"),
        ("CHATLEDGER_PORT", "tcp://10.0.0.1"),
        ("CHATLEDGER_SERVICE_HOST", "chatledger"),
        ("CHATLEDGER_SERVICE_PORT", "http"),
        ("CHATLEDGER_SERVICE_HOSTS", "10.0.0.1"),
        ("CHATLEDGER_PORT_8000", "tcp://10.0.0.1:80"),
        ("CHATLEDGER_PORT_8000_TCP", "10.0.0.1"),
        ("CHATLEDGER_PORT_8000_TCP_PROTO", "http"),
        ("CHATLEDGER_PORT_8000_TCP_NAME", "x"),
        ("CHATLEDGER_HOST", "tcp://10.0.0.1:80"),
    ],
)
def test_what_has_not_exactly_their_form_is_not(name: str, text: str) -> None:
    """A typing error is refused as ever; but a host is any text."""
    assert not is_service_link(name, text)
    if name != "CHATLEDGER_HOST":
        assert name in refused({name: text})


def test_in_the_file_there_are_none(dotenv: Path) -> None:
    """Kubernetes writes no `.env`."""
    dotenv.write_text("CHATLEDGER_PORT=tcp://10.43.0.7:8000\n")
    assert "line 1: CHATLEDGER_PORT='tcp://10.43.0.7:8000' is not valid" in refused(dotenv=dotenv)


# The file


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"this is no assignment\n", 1),
        (b"CHATLEDGER_PORT=1\n\nDATABASE_PATH other.db\n", 3),
        (b"DATABASE_PATH: other.db\n", 1),
        (b"CHATLEDGER_PORT=1\nDATABASE_PATH='other.db\n", 2),
        (b"# caf\xe9\n", 1),
        (b"A=1\nB=\xff\n", 2),
        (b"CHATLEDGER_PORT\n", 1),
        (b"A=1\nexport DATABASE_PATH\n", 2),
        (b"A=1\nCHATLEDGER_PORT=${NOWHERE}\n", 2),
        (b"A=1\nDATABASE_PATH=a\x00b\n", 2),
    ],
)
def test_a_line_that_says_nothing_is_refused(
    content: bytes, line: int, dotenv: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With its number, and without a warning of the parser's."""
    dotenv.write_bytes(content)
    with caplog.at_level(logging.DEBUG):
        assert refused(dotenv=dotenv).startswith(f"{dotenv}, line {line}")
    assert caplog.records == []


def test_the_usual_forms_are_read(dotenv: Path) -> None:
    """Comments, quotes, `export`, Windows' line ends, a byte order mark; the last of two wins."""
    lines = [
        "# comment",
        "export DATABASE_PATH='a b.db'  # why",
        "",
        "CHATLEDGER_PORT = 1",
        'CHATLEDGER_PORT="2"',
        "A=",
    ]
    dotenv.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    found = load_settings({}, dotenv=dotenv)
    assert (found.database_path, found.port) == ("a b.db", 2)


def test_a_value_may_refer_to_others(dotenv: Path) -> None:
    """To the environment first, as ever, then to lines before it; `:-` has what stands for one that is not set."""
    dotenv.write_text("ROOT=/srv\nDATABASE_PATH=${ROOT}/${NAME:-l}.db\nOTHER=${NOWHERE}\n")
    assert load_settings({}, dotenv=dotenv).database_path == "/srv/l.db"
    assert load_settings({"ROOT": "/data", "NAME": "x"}, dotenv=dotenv).database_path == "/data/x.db"


def test_an_empty_variable_does_not_hide_that_of_the_file(dotenv: Path) -> None:
    """It counts as not set."""
    dotenv.write_text("CHATLEDGER_PORT=1\nCHATLEDGER_READERS=\n")
    assert load_settings({"CHATLEDGER_PORT": ""}, dotenv=dotenv) == Settings(port=1)


def test_a_folder_of_that_name_is_no_file(dotenv: Path) -> None:
    """Some keep a virtual environment there; a device, such as the null device over a file, has nothing in it."""
    dotenv.mkdir()
    assert load_settings({}, dotenv=dotenv) == Settings()
    assert load_settings({}, dotenv=Path("/dev/null")) == Settings()


# Values


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("CHATLEDGER_LOG_LEVEL", "trace", "one of debug, info, warning, error"),
        ("CHATLEDGER_PORT", "abc", "a whole number from 0 to 65535"),
        ("CHATLEDGER_PORT", "65536", "a whole number from 0 to 65535"),
        ("CHATLEDGER_ALLOW_NETWORK_FILESYSTEM", "yes", "true or false"),
        ("CHATLEDGER_IDEMPOTENCY_DAYS", "6", "a whole number from 7 to 36500"),
    ],
)
def test_a_wrong_value_is_refused_with_what_it_may_be(name: str, text: str, says: str, dotenv: Path) -> None:
    """In the environment, and in the file with its line."""
    assert refused({name: text}) == f"{name}={text!r} is not valid: expected {says}."
    dotenv.write_text(f"A=1\n{name}={text}\n")
    assert refused(dotenv=dotenv) == f"{dotenv}, line 2: {name}={text!r} is not valid: expected {says}."


def test_every_number_has_two_ends() -> None:
    """Beyond what the system takes as a number a setting would end in a fault later."""
    for field in msgspec.structs.fields(Settings):
        kind = msgspec.inspect.type_info(field.type)
        if isinstance(kind, msgspec.inspect.IntType):
            assert kind.ge is not None, field.name
            assert kind.le is not None, field.name
            assert expected(field.type) == f"a whole number from {kind.ge} to {kind.le}"


def test_each_setting_says_where_it_is_from(dotenv: Path) -> None:
    """The environment, a line of the file, or nothing for the default."""
    dotenv.write_text("\nCHATLEDGER_PORT=1\nCHATLEDGER_READERS=2\n")
    found = read_settings({"CHATLEDGER_READERS": "3"}, dotenv=dotenv)
    assert [setting.variable for setting in found.values()] == VARIABLES
    places: dict[str, Any] = {setting.variable: setting.place for setting in found.values() if setting.place}
    assert places == {"CHATLEDGER_PORT": f"{dotenv}, line 2", "CHATLEDGER_READERS": "environment"}
