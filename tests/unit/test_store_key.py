"""The key of an encrypted store: where it is looked for, and what is no key."""

import os
from pathlib import Path

import pytest

from nbdswap.errors import ConfigError, ExitCode, NotPermittedError, RefusedError
from nbdswap.store_key import check_key, forget_key, key_source, makes_key
from tests.unit.conftest import MakeConfig


def make_key(path: Path, *, key: bytes = os.urandom(32), mode: int = 0o600) -> Path:
    path.write_bytes(key)
    path.chmod(mode)
    return path


def test_without_encryption_there_is_no_key(make_config: MakeConfig) -> None:
    config = make_config()
    assert key_source(config, 1) is None
    assert not makes_key(config)
    check_key(config)


def test_a_key_in_memory_lies_beside_the_pool_and_is_forgotten(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    config = make_config({"store.encryption": "on"})
    path = tmp_path / "memory" / "nbdswap-00000000000000ab.key"
    assert key_source(config, 0xAB) == f"file:{path}"
    assert makes_key(config)
    check_key(config)
    make_key(path)
    forget_key(config.memory_dir, 0xAB)
    assert not path.exists()
    forget_key(config.memory_dir, 0xAB)
    forget_key(None, 0xAB)


def test_a_key_file_is_taken_where_it_is(make_config: MakeConfig, tmp_path: Path) -> None:
    path = make_key(tmp_path / "key", mode=0o400)
    config = make_config({"store.encryption": "on", "store.key": f"file:{path}"})
    assert key_source(config, 1) == f"file:{path}"
    assert not makes_key(config)
    check_key(config)


def test_a_credential_is_looked_for_where_systemd_puts_it(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config({"store.encryption": "on", "store.key": "credential:swap"})
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    with pytest.raises(RefusedError, match="LoadCredential=swap"):
        check_key(config)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    make_key(tmp_path / "swap", mode=0o400)
    check_key(config)
    assert key_source(config, 1) == f"file:{tmp_path / 'swap'}"


def test_a_key_that_is_not_in_the_keyring_is_refused_with_how_to_put_it_there(
    make_config: MakeConfig,
) -> None:
    config = make_config({"store.encryption": "on", "store.key": "keyring:no-such:key"})
    assert key_source(config, 1) == "keyring:no-such:key"
    assert not makes_key(config)
    # Most containers have no keyrings: that is another matter, and said so.
    with pytest.raises((RefusedError, NotPermittedError)) as refused:
        check_key(config)
    found = str(refused.value)
    assert "keyring:no-such:key" in found
    assert isinstance(refused.value, NotPermittedError) or "keyctl padd user no-such:key" in found


@pytest.mark.parametrize(
    ("size", "mode", "words"),
    [
        (31, 0o600, "is 31 bytes long, wanted 32"),
        (33, 0o600, "is 33 bytes long, wanted 32"),
        (32, 0o640, "has mode 640, wanted 600 or 400"),
        (32, 0o604, "has mode 604"),
    ],
)
def test_what_is_no_key_is_refused_in_words(
    make_config: MakeConfig, tmp_path: Path, size: int, mode: int, words: str
) -> None:
    path = make_key(tmp_path / "key", key=b"k" * size, mode=mode)
    config = make_config({"store.encryption": "on", "store.key": f"file:{path}"})
    with pytest.raises(RefusedError, match=words) as refused:
        check_key(config)
    assert refused.value.exit_code == ExitCode.REFUSED


def test_a_missing_key_and_a_directory_are_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    for path, words in ((tmp_path / "no", "No such file"), (tmp_path, "no plain file")):
        config = make_config({"store.encryption": "on", "store.key": f"file:{path}"})
        with pytest.raises(RefusedError, match=words):
            check_key(config)


def test_a_key_that_may_not_be_read_is_not_permitted(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_key(tmp_path / "key")
    config = make_config({"store.encryption": "on", "store.key": f"file:{path}"})
    # Root may read anything, so the answer is the test's.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NotPermittedError, match="permission denied") as refused:
        check_key(config)
    assert refused.value.exit_code == ExitCode.NOT_PERMITTED


@pytest.mark.parametrize(
    "key",
    ["", "disk", "file:", "file", "credential:", "credential:a/b", "credential:..", "keyring:", 7],
)
def test_a_key_that_names_nothing_is_refused(make_config: MakeConfig, key: object) -> None:
    with pytest.raises(ConfigError, match="wanted memory, file:PATH, credential:NAME or "):
        make_config({"store.key": key})
