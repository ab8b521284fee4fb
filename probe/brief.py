"""Short representations of results: the line that a notebook or a debugger shows of an object."""

LONGEST = 100


def brief(thing: object, *facts: str) -> str:
    """The name of an object's class and facts about the object, at most `LONGEST` characters.

    Facts that are empty are left out; characters that cannot be printed become question marks.

    >>> brief(object(), "2 files", "", "14 records")
    'object(2 files, 14 records)'
    """
    text = f"{type(thing).__name__}({', '.join(filter(None, facts))})"
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 4]}...)"


def counted(n: int, one: str) -> str:
    """A number with its noun in singular or plural.

    >>> counted(1, "file"), counted(1200, "file")
    ('1 file', '1,200 files')
    """
    return f"{n:,} {one}{'' if n == 1 else 's'}"


def figure(value: object) -> str:
    """A number with four digits; anything else as it is.

    >>> figure(2 / 3), figure(None)
    ('0.6667', 'None')
    """
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def human_bytes(n_bytes: float) -> str:
    """A size in the unit that suits it.

    >>> human_bytes(512), human_bytes(3_100_000), human_bytes(2.4e9)
    ('512 B', '3.1 MB', '2.40 GB')
    """
    for unit, size, digits in (("GB", 1e9, 2), ("MB", 1e6, 1), ("kB", 1e3, 0)):
        if n_bytes >= size:
            return f"{n_bytes / size:.{digits}f} {unit}"
    return f"{n_bytes:.0f} B"
