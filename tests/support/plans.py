"""How SQLite would run a query, and how many steps it takes."""

import re
from typing import Any

from chatledger.storage.connection import Connection


def scans(connection: Connection, sql: str) -> list[str]:
    """The steps of *sql*'s plan that read the whole of a real table or of one of its indexes."""
    real = {
        name
        for (schema,) in connection.execute("SELECT name FROM pragma_database_list").fetchall()
        for (name,) in connection.execute(f"SELECT name FROM {schema}.sqlite_schema WHERE type = 'table'")
    }
    numbers = [int(number) for number in re.findall(r"\?(\d+)", sql)]
    placeholders = (None,) * (max(numbers) if numbers else sql.count("?"))
    details = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", placeholders)]
    aliases = dict(re.findall(r"(\w+) AS (\w+)", sql))
    names = real | {alias for name, alias in aliases.items() if name in real}
    return [detail for detail in details if (found := re.match(r"SCAN (\w+)", detail)) and found[1] in names]


def steps_of(connection: Connection, sql: str, values: tuple[Any, ...] = ()) -> int:
    """The steps of SQLite's virtual machine that *sql* takes, in tens."""
    count = 0

    def tick() -> bool:
        nonlocal count
        count += 1
        return False

    connection.set_progress_handler(tick, 10)
    try:
        connection.execute(sql, values).fetchall()
    finally:
        connection.set_progress_handler(None)
    return count
