"""What a run says while it lasts, in a pipe; tests/test_predict.py has prediction, and a terminal."""

import re
import sys

from tests.conftest import TINY
from train import train


def said(caplog):
    found = (
        re.fullmatch(r"(epoch +\d|validation|test)(?:/2)?  batch (\d) of (\d)", message) for message in caplog.messages
    )
    return [" ".join(match.groups()).replace("  ", "") for match in found if match]


def test_a_line_now_and_then_within_an_epoch_and_in_the_test(composed, caplog):
    caplog.set_level("INFO")
    train(composed(*TINY, "trainer.max_epochs=2", "+callbacks.progress.line_seconds=0"))
    lines = said(caplog)
    training, validation = [f"epoch {{}} {i} 3" for i in (1, 2, 3)], "validation 1 1"
    for epoch in (1, 2):
        wanted = [line.format(epoch) for line in training] + [validation]
        at = lines.index(wanted[0])
        assert lines[at : at + 4] == wanted
    assert lines[-1].startswith("test ")


def test_none_of_a_short_run(composed, caplog):
    caplog.set_level("INFO")
    train(composed(*TINY))
    assert not said(caplog)


def test_the_bar_of_an_epoch_that_is_resumed_starts_where_it_was_stopped(composed, tmp_path, monkeypatch, capsys):
    stops = ["+callbacks.stop._target_=tests.killed.StopAt", "+callbacks.stop.step=2"]
    train(composed(*TINY, "trainer.max_epochs=2", "callbacks.last.every_n_train_steps=1", *stops))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    train(composed(*TINY, "trainer.max_epochs=2", f"ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}"))
    bars = re.findall(r"(epoch +\d)/2: .*?(\d/[\d?]+)", capsys.readouterr().out)
    assert bars[0] in [("epoch   1", "1/3"), ("epoch   1", "2/3")]  # Lightning may count the last one as not completed
    assert ("epoch   2", "0/3") in bars
