"""Several networks as one."""

import json
import shutil

import pytest
import torch
from torch import nn

from inference import checkpoints
from inference.ensemble import Ensemble
from results.run_folder import find_checkpoints


def test_its_softmax_is_the_mean_of_the_members_softmax():
    torch.manual_seed(0)
    members, images = [nn.Linear(4, 3), nn.Linear(4, 3)], 30 * torch.randn(5, 4)  # some probabilities are nearly 0
    expected = (members[0](images).softmax(1) + members[1](images).softmax(1)) / 2
    torch.testing.assert_close(Ensemble(members)(images).softmax(1), expected)
    by_hand = Ensemble([nn.Identity(), nn.Identity()])(torch.tensor([[0.0, 0.0]]))
    assert by_hand.exp().tolist() == [[0.5, 0.5]]


def test_a_sweeps_folder_means_its_completed_jobs(trained, tmp_path):
    for name, status in (("seed-1", "completed"), ("seed-0", "completed"), ("seed-2", "failed")):
        shutil.copytree(trained, tmp_path / name)
        record = json.loads((tmp_path / name / "result.json").read_text()) | {"status": status}
        (tmp_path / name / "result.json").write_text(json.dumps(record))
    (tmp_path / "sweep.json").write_text("{}")
    files = [tmp_path / name / "checkpoints/best.ckpt" for name in ("seed-0", "seed-1")]
    found = find_checkpoints(tmp_path)
    assert [file for file, _ in found] == files
    assert found[-1][1] == f"ensemble     2 of 3 jobs in {tmp_path} are completed"
    assert [file for file, _ in find_checkpoints([str(tmp_path), str(trained)])][2] == trained / "checkpoints/best.ckpt"
    for name in ("seed-0", "seed-1"):
        shutil.rmtree(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="is the folder of a sweep without a completed job"):
        find_checkpoints(tmp_path)
    with pytest.raises(ValueError, match=r"ckpt=\[\] is empty; expected a checkpoint, or several"):
        find_checkpoints([])


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("class_names", [*"abcdefghij"], r"has class_names \['a', .*'0', .*; expected the same"),
        ("preprocessing", {"in_channels": 1, "image_size": 32, "mean": [0.5], "std": [0.5]}, "has preprocessing "),
    ],
)
def test_members_have_the_same_classes_and_preprocessing(part, value, message, trained, tmp_path):
    content = torch.load(trained / "checkpoints/best.ckpt", weights_only=True)
    torch.save(content | {part: value}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=message):
        checkpoints.open_checkpoints([str(trained), str(tmp_path / "other.ckpt")])


def test_one_checkpoint_is_the_network_itself(trained):
    (member,), backbone = checkpoints.open_checkpoints(str(trained))
    assert backbone is member.backbone
    with pytest.raises(ValueError, match="expected one checkpoint .only evaluate.py and predict.py average several"):
        checkpoints.open_checkpoint(["a", "b"])
