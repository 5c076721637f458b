"""Texts of any length on which a parser that is not linear shows it: runs of what its parts may begin or end with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """*unit* repeated, between *begin* and *end*, which make it nearly what a parser looks for."""

    unit: bytes
    begin: bytes = b""
    end: bytes = b""

    def __str__(self) -> str:
        return f"{self.begin!r}+{self.unit!r}*n+{self.end!r}"

    def of(self, size: int) -> bytes:
        """About *size* bytes of it."""
        count = (size - len(self.begin) - len(self.end)) // len(self.unit)
        return self.begin + self.unit * count + self.end


BLANKS = [
    Shape(b" "),
    Shape(b" ", b"x", b"x"),
    Shape(b"\t", b"x", b"x"),
    Shape(b" \t", b'"1"', b"x"),
    Shape(b" ", b'"', b""),
    Shape(b" ", b"", b'"1"'),
    Shape(b"x "),
]
PLAIN = [
    Shape(b"a"),
    Shape(b"A", b"", b"!"),
    Shape(b"0"),
    Shape(b"9", b"-", b"x"),
    Shape(b"1", b"1e", b"."),
    Shape(b"1.", b"", b"x"),
    Shape(b"_"),
    Shape(b"-"),
    Shape(b"\xc3\xa9"),
    Shape(b"\xff"),
]
MARKS = [
    Shape(b","),
    Shape(b", ", b'"1"', b"x"),
    Shape(b";"),
    Shape(b"; ", b"a", b"="),
    Shape(b"="),
    Shape(b"a=b;"),
    Shape(b"&"),
    Shape(b"a=b&"),
    Shape(b"."),
    Shape(b"a.", b"", b"!"),
    Shape(b".", b"..", b"x"),
    Shape(b"/"),
    Shape(b"/a"),
    Shape(b"../"),
    Shape(b":"),
    Shape(b":/", b"a", b"!"),
    Shape(b"*"),
    Shape(b"+"),
    Shape(b"`"),
    Shape(b"- at `"),
    Shape(b"<"),
    Shape(b"~", b"", b"\xff"),
]
QUOTES = [
    Shape(b'"'),
    Shape(b'"" '),
    Shape(b"'"),
    Shape(b'W/"'),
    Shape(b'W/""'),
    Shape(b'W/"a", ', b"", b"x"),
    Shape(b'"1" , ', b"", b'"'),
    Shape(b'"1"', b"", b","),
    Shape(b'W/ "'),
]
ESCAPES = [
    Shape(b"\\"),
    Shape(b"\\", b"x", b"u0000"),
    Shape(b"\\\\"),
    Shape(b'\\"'),
    Shape(b'\\\\"', b'"', b""),
    Shape(b"\\u0000"),
    Shape(b"\\\\u0000"),
    Shape(b"\\ud800"),
    Shape(b"\\udc00"),
    Shape(b"\\ud83d\\ude00"),
    Shape(b"\\ud83d\\\\ude00"),
    Shape(b"\\u"),
]
PERCENT = [Shape(b"%"), Shape(b"%25"), Shape(b"%zz"), Shape(b"%2f"), Shape(b"%20", b"x", b"x"), Shape(b"%c3")]
BRACKETS = [
    Shape(b"["),
    Shape(b"]"),
    Shape(b"{"),
    Shape(b"[]"),
    Shape(b"[],", b"[", b"0]"),
    Shape(b"{},", b"[", b"0]"),
    Shape(b'"[",', b"[", b"0]"),
    Shape(b'"[",[],', b"[", b"0]"),
    Shape(b"[[[[[]]]]],", b"[", b"0]"),
    Shape(b'{"a":'),
    Shape(b"("),
]
TIMES_AND_LISTS = [
    Shape(b"2024-01-01T00:00:00"),
    Shape(b"1", b"2024-01-01T00:00:00.", b"Z"),
    Shape(b" ", b"2024-01-01T00:00:00", b"02:00"),
    Shape(b"00:00 ", b"2024-01-01T00:00:00 ", b"!"),
    Shape(b"*/*;q=0.1, "),
    Shape(b"0-1,", b"bytes=", b""),
    Shape(b"null"),
    Shape(b"1,", b"[", b"1]"),
    Shape(b'"a":1,', b"{", b'"a":1}'),
]
SHAPES = [*BLANKS, *PLAIN, *MARKS, *QUOTES, *ESCAPES, *PERCENT, *BRACKETS, *TIMES_AND_LISTS]
