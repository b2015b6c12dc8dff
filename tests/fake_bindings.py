"""Classes of a binding whose calls are checked against a table of its real names and signatures.

An unknown name, a write to a read-only member, a wrong number or type of arguments is an error,
as it is there.
"""

import re


class Behaviour:
    """A class of the bindings: its table decides what there is, its methods what it does."""

    def __setattr__(self, name, value):
        if type(self) is self.table_class and not name.startswith("_"):
            kind = self.members.get(name)
            if kind != "rw":
                raise AttributeError(f"{self.kind}.{name} is {kind or 'unknown'}, not writeable")
            self.trt.log.append((f"{self.kind}.{name}", value))
        object.__setattr__(self, name, value)

    def __getattribute__(self, name):
        get = object.__getattribute__
        if name.startswith("_") or name in ("members", "kind", "trt", "table_class"):
            return get(self, name)
        members = get(self, "members")
        if name not in members and type(self) is get(self, "table_class"):
            raise AttributeError(f"{get(self, 'kind')} has no attribute {name}")
        if not isinstance(members.get(name), list) or name in type(self).__dict__:
            return get(self, name)
        return lambda *args, **kwargs: get(self, "_call")(name, args, kwargs)

    def _call(self, name, args, kwargs):
        full, signatures = f"{self.kind}.{name}", self.members[name]
        if not any(_fits(self.trt, each, args, kwargs) for each in signatures):
            raise TypeError(f"{full}: {args} {kwargs} do not fit {signatures}")
        self.trt.log.append((full, args))
        if full in self.trt.fail:
            value, words = self.trt.fail[full]
            self._say(words)
            return value
        return object.__getattribute__(self, name)(*args, **kwargs)

    def _say(self, words):
        self._logger.log(self.trt.ILogger.ERROR, words)

    def _make(self, kind, **state):
        made = object.__new__(getattr(self.trt, kind))
        for name, value in {"_logger": self._logger, **state}.items():
            object.__setattr__(made, name, value)
        return made


def _fits(trt, signature, args, kwargs):
    """Whether arguments fit one signature, in number, names and types."""
    bare = re.sub(r"<[^<>]*>", "default", signature)
    wanted = [re.match(r"(\w+)(?:: ([\w.:]+))?(.*)", p.strip()) for p in bare.split(",")][1:]
    if len(args) > len(wanted):
        return False
    given = dict(zip((each[1] for each in wanted), args, strict=False))
    if given.keys() & kwargs.keys():
        return False
    given |= kwargs
    if given.keys() - {each[1] for each in wanted}:
        return False
    return all(
        _is_a(trt, given[name], kind) if name in given else "=" in rest
        for name, kind, rest in (each.groups() for each in wanted)
    )


def _is_a(trt, value, kind):
    kind = re.split(r"[.:]+", kind)[-1]
    plain = {"int": int, "SupportsInt": int, "str": str, "bool": bool, "tuple": tuple,
             "list": list, "buffer": bytes, "Buffer": bytes, "Dims": (tuple, list)}  # fmt: skip
    expected = plain.get(kind) or getattr(trt, kind)
    return isinstance(value, expected) and (expected is not int or type(value) is int)
