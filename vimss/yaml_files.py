"""YAML files of the repository by their names, read by the rules of YAML 1.2.

    read_yaml(find_yaml("quickstart", "shards/*.yaml"))

Unlike in PyYAML, which follows 1.1: `1e-4` is a number, `off` a word, `012` no octal, and a repeated key is an error.
"""

import math
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vimss.errors import ConfigError

MAX_YAML_BYTES = 1_000_000
"""No settings file is this long; a longer one is a mistake or an attack."""

MAX_NAME = 150
"""Bytes of a name that becomes part of a folder's: a file system takes 255, and signatures and the like are added."""

PACKAGE_HOME = Path(__file__).absolute().parent.parent
"""Where the package lies: the root of the repository, unless it was installed as a wheel."""


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars, no repeated keys and no aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Aliases are how a file of a kilobyte becomes a gigabyte of settings; no file of ours needs them.
        if self.check_event(yaml.AliasEvent):
            # PyYAML's stubs leave this method out.
            where = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", where)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            keys.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] in {"null", "merge"}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"(?:true|True|false|False)$", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)$", "-+0123456789"),
    ("float", r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$", "-+0123456789."),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def is_path(name: str) -> bool:
    """True for a path relative to the working directory, False for a name in a folder of the repository."""
    return "/" in name or name in {".", ".."} or name.endswith((".yaml", ".yml"))


def find_named(name: str, pattern: str) -> Path | None:
    """The YAML file that a name means: `pattern`, such as experiments/*.yaml, with the name for the star.

    It is looked for in the working directory, then in the repository around it, then in the repository that this
    package was imported from. None where none of them has it.
    """
    paths = [home / pattern.replace("*", name, 1) for home in _homes()]
    return next((path for path in paths if os.path.lexists(path)), None) if name else None


def known_names(pattern: str) -> list[str]:
    """Every name that `find_named` would find."""
    before, _, after = pattern.partition("*")
    found = (path.relative_to(home).as_posix() for home in _homes() for path in home.glob(pattern))
    return sorted({path.removeprefix(before).removesuffix(after) for path in found})


def find_yaml(name: str | Path, pattern: str) -> Path:
    """The YAML file at a path, or that a name means; ConfigError with what there is where a name means none.

    `is_path` distinguishes a name from a path; see `find_named` for where a name is looked for.
    """
    if isinstance(name, Path) or is_path(name):
        return Path(name)
    found = find_named(name, pattern)
    if found is not None:
        return found
    known = [f"{one}.yaml" for one in known_names(pattern)]
    fixes = [f"choose one of {', '.join(known)}"] if known else ["change into the root of the VIMSS repository"]
    if not known or Path(f"{name}.yaml").is_file():
        fixes.append(f"give the path of a YAML file, such as {name}.yaml")
    folder = pattern.partition("/")[0]
    raise ConfigError(
        f"{pattern.replace('*', name, 1)} must be a YAML file",
        got="no such file" if known else f"no such file, and no folder {folder}/ with others in or around {Path.cwd()}",
        fix=", or ".join(fixes),
    )


def _homes() -> list[Path]:
    """Folders whose shards/, experiments/ and platform/ are looked at, the nearest first."""
    return [Path(), *(folder for folder in (*Path.cwd().parents, PACKAGE_HOME) if _is_repository(folder))]


def _is_repository(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "shards").is_dir()


def check_file_name(path: Path, what: str, pattern: re.Pattern[str], rule: str) -> str:
    """The name that a YAML file gives to `what` it describes; ConfigError, with a better one, where it is odd."""
    name = path.name.removesuffix(".yaml").removesuffix(".yml")
    if not pattern.fullmatch(name) or len(os.fsencode(name)) > MAX_NAME:
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
        better = re.sub(r"[^A-Za-z0-9_]+", "-", plain)[:MAX_NAME].strip("-_") or f"my-{what}"
        raise ConfigError(
            f"{rule}, at most {MAX_NAME} bytes before .yaml",
            got=repr(path.name),
            fix=f"rename it, for example to {better}.yaml",
        )
    return name


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError where it is missing, too large or not a mapping."""
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise ConfigError(
                f"{path}: a settings file has at most {MAX_YAML_BYTES} bytes",
                got=f"{path.stat().st_size} bytes",
                fix="give the YAML file, not the data",
            )
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"{path} must be a YAML file", got="no such file", fix=_other_paths(path)) from error
    except IsADirectoryError as error:
        raise ConfigError(f"{path} must be a YAML file", got="a folder", fix=_other_paths(path)) from error
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path} must be a readable text file", got=str(error), fix="check the path") from error
    return parse_yaml(text, str(path))


def _other_paths(path: Path) -> str:
    """The hint for an error: what to write instead of `path`, where there is no file."""
    named = [f"{folder}/{path.stem}.yaml" for folder in ("shards", "experiments") if _is_known(path.stem, folder)]
    if path.suffix and path.parent == Path() and named:
        return f"write {path.stem}, without {path.suffix}, for {' or '.join(named)}"
    if path.name and not path.suffix and path.with_suffix(".yaml").is_file():
        return f"write {path.with_suffix('.yaml')}"
    near = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f"choose one of {', '.join(near)}" if near else "check the path"


def _is_known(name: str, folder: str) -> bool:
    return name in known_names(f"{folder}/*.yaml")


def parse_yaml(text: str, where: str) -> dict[str, Any]:
    """The mapping in YAML `text`; errors name `where` and the line."""
    try:
        content = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(
            f"{where} must be valid YAML", got=" ".join(str(error).split()), fix="correct that line"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(
            f"{where} must hold `key: value` lines", got=type(content).__name__, fix="see shards/ and experiments/"
        )
    return content


def yaml_in_a_line(content: Mapping[str, Any]) -> str:
    """Settings as a file may hold them in one line, such as `{training.batch_size: 4}`."""
    return str(yaml.safe_dump(dict(content), default_flow_style=True, sort_keys=False, width=math.inf)).strip()
