"""`--object [KIND/][NAMESPACE/]NAME`: which events are about one object.

Easy to get wrong: an event is about what it changes and about what it says caused it, so that the identities which a
policy's prefixes needed are shown with the policy, and the endpoints that a namespace's labels moved with that.
"""

from typing import Any, NamedTuple

from kilim.cli.failure import BadUsage
from kilim.cli.kinds import BY_WORD, kind_of
from kilim.v1.events_pb2 import Event


class Named(NamedTuple):
    """`kind` in small letters; "" for any. `namespace` "" for what has none."""

    kind: str
    namespace: str
    name: str


def parse_object(text: str) -> Named:
    parts = text.split("/")
    if not all(parts) or len(parts) > 3:
        raise BadUsage(f'--object: "{text}" must be [KIND/]NAMESPACE/NAME, or [KIND/]NAME for what has no namespace')
    if len(parts) == 3:
        try:
            kind = kind_of(parts[0])
        except BadUsage as error:
            raise BadUsage(f"--object: {error.message}") from None
        if not kind.namespaced:
            raise BadUsage(f'--object: "{text}": {kind.name} has no namespace')
        return Named(kind.name.lower(), parts[1], parts[2])
    if len(parts) == 2:
        word = BY_WORD.get(parts[0].lower().partition(".")[0])
        if word is not None and not word.namespaced:
            return Named(word.name.lower(), "", parts[1])
        return Named("", parts[0], parts[1])
    return Named("", "", parts[0])


def is_about(event: Event, wanted: Named) -> bool:
    return any(_agrees(named, wanted) for named in (_changed(event), _cause(event)) if named is not None)


def _agrees(named: Named, wanted: Named) -> bool:
    return named[1:] == wanted[1:] and wanted.kind in ("", named.kind)


def _changed(event: Event) -> Named | None:
    field = event.WhichOneof("body")
    if field is None:
        return None
    noun, _, _ = field.rpartition("_")
    body: Any = getattr(event, field)
    thing = getattr(body, noun) if noun in body.DESCRIPTOR.fields_by_name else body
    kind = thing.kind.lower() if noun == "policy" else noun.replace("_", "")
    name = str(thing.id) if noun == "identity" else thing.name
    return Named(kind, getattr(thing, "namespace", ""), name)


def _cause(event: Event) -> Named | None:
    """`NetworkPolicy shop/db`, `node node1`, `endpoint shop/db container 4f1c`."""
    words = event.cause.split()
    if len(words) < 2 or words[0].lower() not in BY_WORD:
        return None
    namespace, _, name = words[1].rpartition("/")
    return Named(words[0].lower(), namespace, name)
