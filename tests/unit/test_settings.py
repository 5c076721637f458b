"""Settings: from the environment and `.env`, each with a limit, a unit and a docstring."""

import ast
import inspect
from pathlib import Path

import msgspec
import pytest

from chatledger.errors import SettingsError
from chatledger.settings import Settings, load_settings, variable_of

NO_FILE = Path("/nonexistent/.env")
FIELDS = [field.name for field in msgspec.structs.fields(Settings)]


@pytest.fixture
def dotenv(tmp_path: Path) -> Path:
    """An empty `.env`."""
    path = tmp_path / ".env"
    path.touch()
    return path


def test_without_any_variable_the_settings_are_the_defaults() -> None:
    """Nothing needs to be set."""
    assert load_settings({}, dotenv=NO_FILE) == Settings()


def test_a_variable_sets_its_setting() -> None:
    """Numbers, truth values, words; `DATABASE_PATH` as in the store that chatledger replaces."""
    environment = {
        "DATABASE_PATH": "/tmp/l.db",  # noqa: S108  # a name, not a file
        "CHATLEDGER_PORT": "0",
        "CHATLEDGER_LOG_LEVEL": "debug",
        "CHATLEDGER_ALLOW_NETWORK_FILESYSTEM": "1",
        "PATH": "/bin",
    }
    found = load_settings(environment, dotenv=NO_FILE)
    assert (found.database_path, found.port, found.log_level) == (environment["DATABASE_PATH"], 0, "debug")
    assert found.allow_network_filesystem is True


def test_an_empty_variable_is_none() -> None:
    """As compose files write what is not set."""
    assert load_settings({"CHATLEDGER_PORT": ""}, dotenv=NO_FILE) == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATLEDGER_PORT", "http"),
        ("CHATLEDGER_PORT", "65536"),
        ("CHATLEDGER_PORT", "-1"),
        ("CHATLEDGER_LOG_LEVEL", "loud"),
        ("CHATLEDGER_ALLOW_NETWORK_FILESYSTEM", "maybe"),
        ("CHATLEDGER_BODY_BYTES_MAX", "0"),
        ("CHATLEDGER_BODY_BYTES_MAX", "1.5"),
        ("CHATLEDGER_BODY_BYTES_MAX", "16MB"),
        ("CHATLEDGER_BATCH_MESSAGES_MAX", "1001"),
        ("CHATLEDGER_IDEMPOTENCY_DAYS", "6"),
        ("CHATLEDGER_READERS", "65"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_variable(name: str, value: str) -> None:
    """And with the value, so that the operator finds it."""
    with pytest.raises(SettingsError) as refused:
        load_settings({name: value}, dotenv=NO_FILE)
    assert name in str(refused.value)
    assert value in str(refused.value)


def test_an_unknown_variable_behind_our_prefix_is_refused(dotenv: Path) -> None:
    """A typing error would go unnoticed else; in `.env` too."""
    with pytest.raises(SettingsError, match="CHATLEDGER_PROT"):
        load_settings({"CHATLEDGER_PROT": "80"}, dotenv=NO_FILE)
    dotenv.write_text("CHATLEDGER_PROT=80\n")
    with pytest.raises(SettingsError, match="CHATLEDGER_PROT"):
        load_settings({}, dotenv=dotenv)


def test_the_file_is_read_and_the_environment_wins(dotenv: Path) -> None:
    """Variable by variable."""
    dotenv.write_text("CHATLEDGER_PORT=1\nCHATLEDGER_READERS=2\n# a comment\nOTHER=x\n")
    found = load_settings({"CHATLEDGER_PORT": "3"}, dotenv=dotenv)
    assert (found.port, found.readers) == (3, 2)


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the `.env` of the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHATLEDGER_PORT", "4")
    (tmp_path / ".env").write_text("CHATLEDGER_READERS=5\n")
    found = load_settings()
    assert (found.port, found.readers) == (4, 5)


def test_each_setting_has_a_docstring() -> None:
    """It says what the setting is for, as a sentence."""
    (struct,) = ast.parse(inspect.getsource(Settings)).body
    assert isinstance(struct, ast.ClassDef)
    documented = []
    for one, following in zip(struct.body, struct.body[1:], strict=False):
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            assert isinstance(following, ast.Expr), one.target.id
            assert isinstance(following.value, ast.Constant), one.target.id
            assert str(following.value.value).rstrip().endswith("."), one.target.id
            documented.append(one.target.id)
    assert documented == FIELDS


def test_each_setting_has_a_variable_of_its_own() -> None:
    """Behind the prefix, but for DATABASE_PATH."""
    names = [variable_of(name) for name in FIELDS]
    assert len(set(names)) == len(names)
    assert all(name.startswith("CHATLEDGER_") for name in names if name != "DATABASE_PATH")


def test_the_defaults_are_within_their_own_limits() -> None:
    """What cannot be set is no default either."""
    encoded = msgspec.to_builtins(Settings())
    assert msgspec.convert(encoded, Settings) == Settings()


def test_memory_is_a_database_path() -> None:
    """`:memory:` keeps nothing in files."""
    assert Settings(database_path=":memory:").in_memory
    assert not Settings().in_memory
