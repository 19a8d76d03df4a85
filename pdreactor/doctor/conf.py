"""Configuration files of others, as far as ``doctor`` reads them. Pure."""

from collections.abc import Iterable, Iterator

from .facts import Option, Unit

BLOCKS = ("interface", "ssid", "profile")
"""Options that begin a block of dhcpcd.conf(5); a block lasts until the next one."""


def dhcpcd(text: str) -> tuple[Option, ...]:
    """The options of dhcpcd.conf(5). Those for a profile or a wireless network are left out."""
    found, block = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        name, _, value = line.strip().replace("\t", " ").partition(" ")
        if not name or name[0] in "#;":
            continue
        if name in BLOCKS:
            block = value.strip() if name == "interface" else name + " "
        elif not block.endswith(" "):
            found.append(Option(name, value.strip(), number, block))
    return tuple(found)


def concerning(options: Iterable[Option], interface: str) -> list[Option]:
    """The options that count for one interface: the global ones and those of its blocks, which
    have its very name (9.4.1 takes no pattern there)."""
    return [one for one in options if one.interface in ("", interface)]


def words(value: str) -> list[str]:
    """A list as dhcpcd takes it, by blanks or commas."""
    return value.replace(",", " ").split()


def keys(texts: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(section, key, value) of files in the syntax of systemd.syntax(7), in their order."""
    section = ""
    for text in texts:
        for line in text.replace("\\\n", " ").splitlines():
            line = line.strip()
            if line[:1] == "[":
                section = line.strip("[]")
            elif "=" in line and line[0] not in "#;":
                key, _, value = line.partition("=")
                yield section, key.strip(), value.strip()


def no(value: str) -> bool:
    """Whether a boolean of systemd is false."""
    return value.lower() in ("no", "n", "false", "f", "off", "0")


def unit(name: str, texts: Iterable[str], enabled: bool) -> Unit:
    """A unit and its drop-ins."""
    protect, writable = "", list[str]()
    for section, key, value in keys(texts):
        if section != "Service":
            continue
        if key == "ProtectSystem":
            protect = value
        elif key in ("ReadWritePaths", "ReadWriteDirectories", "StateDirectory"):
            base = "/var/lib/" if key == "StateDirectory" else ""
            writable = [*writable, *(base + one.lstrip("-+") for one in value.split())] \
                if value else []
    return Unit(name, protect == "strict", tuple(writable), enabled)
