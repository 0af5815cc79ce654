"""How an event is retired: its upcaster says what it means today, and everything that folds follows."""

import pytest

from kilim.model import upcast
from kilim.model.fold import RULES, fold_event, fold_record
from kilim.model.state import State
from kilim.v1 import events_pb2 as pb


def setting_of_namespace(event: pb.Event) -> pb.Event:
    """As if labels of a namespace had become a setting: the body of the old event read, one of later number written."""
    old = event.namespace_labelled.namespace
    setting = pb.Setting(name=old.name, value=",".join(label.value for label in old.labels))
    today = pb.Event(time_ns=event.time_ns, actor=event.actor, cause=event.cause)
    today.setting_changed.setting.CopyFrom(setting)
    return today


OLD = pb.Event(namespace_labelled={"namespace": {"name": "x", "labels": [{"key": "a", "value": "1"}]}})
TODAY = pb.Event(setting_changed={"setting": {"name": "x", "value": "1"}})


def test_a_retired_event_folds_as_what_it_means_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upcast.UPCASTERS, "namespace_labelled", setting_of_namespace)
    monkeypatch.delitem(RULES, "namespace_labelled")
    replayed, written = State(), State()
    changes = fold_record(replayed, 1, OLD.SerializeToString())
    assert changes == fold_event(written, TODAY) != []
    assert replayed.digest == written.digest
    assert fold_record(replayed, 2, b"") == [] and replayed.seq == 2


def test_one_may_lead_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(upcast.UPCASTERS, "namespace_labelled", setting_of_namespace)
    first = pb.Event(node_left={"name": "x"})
    monkeypatch.setitem(upcast.UPCASTERS, "node_left", lambda _: OLD)
    assert upcast.upcast(first) == TODAY


def test_an_event_of_today_is_itself() -> None:
    assert upcast.upcast(OLD) is OLD
    assert upcast.upcast(pb.Event()) == pb.Event()


def test_retired_bodies_have_no_rule_and_every_other_body_has_one() -> None:
    bodies = {field.name for field in pb.Event.DESCRIPTOR.oneofs_by_name["body"].fields}
    assert set(RULES) | set(upcast.UPCASTERS) == bodies
    assert not set(RULES) & set(upcast.UPCASTERS)
