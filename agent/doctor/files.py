"""Files: the data, whether the agent may use them, and secrets that others may read."""

from __future__ import annotations

import os
import shlex
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from agent.config import Config, HubConfig
from agent.doctor.account import Account
from agent.doctor.finding import Finding, Level
from agent.server.sessions import SECRET_FILE
from agent.store.connection import marker
from agent.store.schema import APPLICATION_ID, SCHEMA_VERSION
from agent.words import counted

_USE = os.R_OK | os.W_OK | os.X_OK


def data(folder: Path, account: Account) -> Sequence[Finding]:
    """Whether the agent may write what it has to write."""
    if not folder.exists():
        above = next(parent for parent in folder.absolute().parents if parent.exists())
        if account.may(above.stat(), _USE):
            text = "is made at the first start"
            return [Finding("data", str(folder), Level.OK, text)]
        text = f"cannot be made by user {account.name!r}, who may not write to {above}"
        mend = f"sudo install -d -m 700 -o {account.name} {_quoted(folder)}"
        return [Finding("data", str(folder), Level.ERROR, text, mend)]
    if not folder.is_dir():
        text = "is no folder; the data cannot be kept there"
        return [Finding("data", str(folder), Level.ERROR, text, _aside(folder, "old"))]
    refused = [folder] if not account.may(folder.stat(), _USE) else []
    refused += [
        file
        for pattern in ("*.sqlite*", SECRET_FILE)
        for file in folder.glob(pattern)
        if not account.may(file.stat(), os.R_OK | os.W_OK)
    ]
    if refused:
        text = f"user {account.name!r} may not write {', '.join(map(str, refused[:3]))}"
        mend = f"sudo chown -R {account.name}: {_quoted(folder)} && "
        mend += f"sudo chmod -R u+rwX {_quoted(folder)}"
        return [Finding("data", str(folder), Level.ERROR, text, mend)]
    return [Finding("data", str(folder), Level.OK, f"user {account.name!r} may write there")]


def store(file: Path) -> Sequence[Finding]:
    """Whether the database of an agent that does not run can be opened. It is not written to."""
    if not file.exists():
        return []
    try:
        # Or else SQLite would make files beside it, for others that may write at the same time.
        alone = "" if file.with_name(file.name + "-wal").exists() else "&immutable=1"
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro{alone}", uri=True)) as db:
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
            count = "SELECT coalesce(sum(value), 0) FROM meta WHERE key = 'doc_count'"
            ours = application == APPLICATION_ID
            documents = db.execute(count).fetchone()[0] if ours else 0
    except (sqlite3.Error, UnicodeDecodeError) as error:  # this one of a schema in SQLite's message
        code = getattr(error, "sqlite_errorname", "SQLITE_CORRUPT")
        if not code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            text = f"cannot be read at present ({error})"
            mend = f"df -h {_quoted(file.parent)}; sudo dmesg | tail"
            return [Finding("store", str(file), Level.ERROR, text, mend)]
        text = f"cannot be read ({error}); a start sets it aside and copies what can be read of it"
        return [Finding("store", str(file), Level.ERROR, text, "sudo systemctl restart edge-agent")]
    if not ours:
        text = "is an SQLite file of another program"
        return [Finding("store", str(file), Level.ERROR, text, _aside(file, "other"))]
    if version > SCHEMA_VERSION:
        text = f"was written by a newer version (schema {version}, this one knows {SCHEMA_VERSION})"
        mend = "sudo scripts/install, from the newer version"
        return [Finding("store", str(file), Level.ERROR, text, mend)]
    if marker(file).exists():
        text = "was found to be damaged; a start sets it aside and copies what can be read of it"
        mend = "sudo systemctl restart edge-agent"
        return [Finding("store", str(file), Level.ERROR, text, mend)]
    return [Finding("store", str(file), Level.OK, f"has {counted(documents, 'document')}")]


def secrets(path: Path, config: Config | HubConfig, account: Account) -> Sequence[Finding]:
    """Whether the agent may read the files with secrets, and nobody else."""
    findings = []
    for file in _secret_files(path, config):
        try:
            status = file.stat()
        except OSError:
            continue  # told of where it is used
        if not account.may(status, os.R_OK):
            text = f"user {account.name!r} may not read it"
            mend = f"sudo chown {account.name} {_quoted(file)}"
            findings.append(Finding("secrets", str(file), Level.ERROR, text, mend))
        elif status.st_mode & stat.S_IROTH:
            text = "holds a secret, and everybody on this machine may read it"
            mend = f"sudo chown {account.name} {_quoted(file)} && sudo chmod 600 {_quoted(file)}"
            findings.append(Finding("secrets", str(file), Level.WARNING, text, mend))
    return findings


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _aside(path: Path, ending: str) -> str:
    return f"mv {_quoted(path)} {shlex.quote(f'{path}.{ending}')}"


def _secret_files(path: Path, config: Config | HubConfig) -> Iterator[Path]:
    logins = [*config.hook]
    others = [*config.remote, *config.telemetry] if isinstance(config, Config) else []
    if any(
        login.password
        or getattr(login, "signing_key", None)
        or "@" in (getattr(login, "url", None) or "")
        for login in (*logins, *others)
    ):
        yield path
    if config.server.tls_key is not None:
        yield Path(config.server.tls_key)
    named = [
        getattr(login, key, None)
        for login in (*logins, *others)
        for key in ("password_file", "signing_key_file", "client_key")
    ]
    yield from (Path(file) for file in dict.fromkeys(named) if file is not None)
