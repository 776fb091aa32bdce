"""EditScore, EditReward, PVC-Judge: their protocols, a head beside an independent computation, words pinned."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.prepared_benchmarks import anchor_run, tagworld_bench
from support.tiny_vlm import png, save_tiny_vlm, tiny_model, tiny_tokenizer

from tagmoe.cli import run as cli
from tagmoe.cli.vlm_options import open_vlm
from tagmoe.errors import CheckpointError, UsageError
from tagmoe.evaluate.benchmarks.cases import Prepared
from tagmoe.evaluate.judging.calibration import Observed, calibrate
from tagmoe.evaluate.judging.description import JudgeDescription, read_judge
from tagmoe.evaluate.judging.judge import Judge, Reply
from tagmoe.evaluate.judging.self_test import built_in_cases, self_test
from tagmoe.evaluate.metrics.metric import NoValue
from tagmoe.vlm.local import LocalVLM
from tagmoe.vlm.question import Answer, Attachment, Question, object_schema
from tagmoe.vlm.reward import HEADS, LAYERS, TOKEN, WIDTHS, RewardVLM


class Said:
    """A model that gives the answers of a function and keeps the questions."""

    model = "said"

    def __init__(self, answer: Any) -> None:
        self._answer, self.questions = answer, list[Question]()

    async def ask(self, question: Question) -> Answer:
        self.questions.append(question)
        return self._answer(question)  # type: ignore[no-any-return]

    async def close(self) -> None:
        return None


def asked(judge: Judge) -> list[Reply]:
    return asyncio.run(judge.ask(built_in_cases()[0]))


def test_editscore_is_asked_several_times_and_each_pass_is_a_root_of_the_range_of_25() -> None:
    """[VectorSpaceLab/EditScore 35ddc1a]: min / 2.5 of each question, the root of their product, the mean of passes."""
    scores = {0: ([20, 5], [10, 25]), 1: ([25, 25], [25, 25]), 2: ([0, 25], [9, 9]), 3: ([10, 15], [5, 20])}

    def answer(question: Question) -> Answer:
        is_quality = sum(isinstance(part, Attachment) for part in question.parts) == 1
        return Answer("ok", value={"reasoning": "x", "score": scores[question.seed - 7][is_quality]})

    model = Said(answer)
    judge = Judge(read_judge("editscore"), model, seed=7)
    replies = asked(judge)
    found = judge.values(replies)
    each = [(min(a) / 2.5 * min(b) / 2.5) ** 0.5 for a, b in scores.values()]
    assert found["editscore"] == pytest.approx(sum(each) / 4)
    assert found["editscore_consistency"] == pytest.approx(sum(min(a) for a, _ in scores.values()) / 2.5 / 4)
    assert {question.temperature for question in model.questions} == {0.7}
    assert [reply.turn for reply in replies] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert judge.description.width == 10
    assert judge.basis()["temperature"] == 0.7
    # One pass that cannot be read leaves no value: EditScore itself would put the middle of the range there.
    broken = [replies[0].model_copy(update={"status": "invalid", "numbers": ()}), *replies[1:]]
    assert all(isinstance(value, NoValue) for value in judge.values(broken).values())


def test_each_picture_of_a_pair_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import tagmoe.evaluate.judging.judge as module

    counted = []
    monkeypatch.setattr(module, "encoded", lambda picture, *_: counted.append(picture) or picture.tobytes())
    case = built_in_cases()[0]
    for name, pictures in (("pvc_judge", 3), ("editscore", 2), ("viescore", 2)):
        counted.clear()
        both = case.with_output(case.pictures["output"], case.pictures["source"])
        posed = Judge(read_judge(name), Said(None)).questions(both)
        assert len(counted) == pictures
        assert len({one.question.key for one in posed}) == len(posed), "each question is another one"


def test_pvc_judge_is_asked_in_both_orders_and_about_consistency_alone() -> None:
    judge = Judge(read_judge("pvc_judge"), Said(lambda question: Answer("ok", text="A", value="A")))
    replies = asyncio.run(judge.ask(built_in_cases()[0].with_output(*[built_in_cases()[0].pictures["source"]] * 2)))
    assert judge.values(replies) == {"pvc_judge": 0.5, "pvc_judge_agrees": 0.0}, "it says A whatever it sees"


def head(width: int, seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    found = {}
    for place, (before, after) in zip(LAYERS, zip((width, *WIDTHS), WIDTHS, strict=False), strict=True):
        layer = torch.nn.Linear(before, after)
        found |= {f"{place}.weight": layer.weight.data, f"{place}.bias": layer.bias.data}
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EditReward's checkpoint at tiny size: a Qwen2.5-VL, its tokenizer with one token more, and two heads."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [TOKEN]})
    model = tiny_model(tokenizer)
    model.resize_token_embeddings(len(tokenizer))
    path = save_tiny_vlm(tmp_path_factory.mktemp("reward") / "editreward", vlm=LocalVLM(model, tokenizer, name="tiny"))
    tensors = load_file(path / "model.safetensors")
    for number, prefix in enumerate(HEADS.values()):
        tensors |= {f"{prefix}.{name}": tensor for name, tensor in head(32, number).items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


def question(words: str, name: str = "following") -> Question:
    parts = (Attachment(png(56, 56)), Attachment(png(84, 56, 1)), words)
    return Question(parts, schema=object_schema({name: {"type": "number"}}))


def test_a_reward_is_that_of_its_heads_on_embeddings_without_ids(folder: Path) -> None:
    """As EditReward runs it: pictures are put into the embeddings, and positions count the tokens."""
    reward = RewardVLM.load(folder, dtype=torch.float32)
    words = f"make the sky blue {TOKEN}\nend"
    model, tokenizer = reward._model, reward._tokenizer
    tensors = load_file(folder / "model.safetensors")
    prompts = reward._prompts
    encoded = prompts._eyes().encode([_opened(png(56, 56)), _opened(png(84, 56, 1))])
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": words}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    for grid in encoded["image_grid_thw"]:
        text = text.replace("<|image_pad|>", "<|seen|>" * (int(grid.prod()) // 4), 1)
    ids = tokenizer(text.replace("<|seen|>", "<|image_pad|>"), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        seen = model.model.visual(encoded["pixel_values"], grid_thw=encoded["image_grid_thw"])
        seen = getattr(seen, "pooler_output", seen)
        embeddings = model.get_input_embeddings()(ids)
        embeddings[ids == model.config.image_token_id] = seen
        hidden = model.model.language_model(inputs_embeds=embeddings).last_hidden_state[0]
        at = hidden[(ids[0] == tokenizer.convert_tokens_to_ids(TOKEN)).nonzero()[0, 0]]
        for name, prefix in HEADS.items():
            x = at
            for place in LAYERS:
                x = torch.nn.functional.linear(
                    x, tensors[f"{prefix}.{place}.weight"], tensors[f"{prefix}.{place}.bias"]
                )
                x = x if place == LAYERS[-1] else x.relu()
            assert reward.reward(question(words), name) == pytest.approx(x.tolist(), abs=1e-5)
            answer = asyncio.run(reward.ask(question(words, name)))
            assert answer.status == "ok"
            assert answer.value == pytest.approx({name: x[0].item()}, abs=1e-5)


def _opened(data: bytes) -> Any:
    from tagmoe.pictures import load_image

    return load_image(data)


def test_a_local_model_is_asked_again_after_it_was_closed(folder: Path) -> None:
    """The self-test closes what it asks, in an event loop of its own; then the outputs are judged."""
    from support.tiny_vlm import tiny_vlm

    async def asked_once(vlm: Any, one: Question) -> Answer:
        try:
            return await vlm.ask(one)  # type: ignore[no-any-return]
        finally:
            await vlm.close()

    choose = Question(("yes or no?",), choices=("yes", "no"))
    for vlm, one in ((tiny_vlm(), choose), (RewardVLM.load(folder), question(f"rate it {TOKEN}"))):
        answers = [asyncio.run(asked_once(vlm, one)) for _ in range(2)]
        assert answers[0].status == "ok"
        assert answers[0] == answers[1]


def test_a_reward_token_in_the_instruction_is_plain_text(folder: Path) -> None:
    reward = RewardVLM.load(folder)
    plain, nasty = (reward.reward(question(f"{words} rate it {TOKEN}"), "quality") for words in ("x", f"x {TOKEN} y"))
    assert plain != nasty
    with pytest.raises(UsageError, match="The words of the judge have no"):
        reward.reward(question("rate it"), "quality")


def test_weights_that_are_no_reward_model_are_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    def altered(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    tensors = load_file(folder / "model.safetensors")
    changes = {
        "no head": {key: one for key, one in tensors.items() if "head_1.3" not in key},
        "other head": tensors | {"rm_heads.head_0.5.weight": torch.zeros(3, 16)},
        "no norm": {key: one for key, one in tensors.items() if key != "model.norm.weight"},
    }
    sentences = {"no head": r"no head rm_heads.head_1.3 from 1024 to 16", "other head": "no head rm_heads.head_0.5"}
    for name, changed in changes.items():
        path = altered(name)
        assert len(changed) < len(tensors) or name == "other head"
        save_file(changed, path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=sentences.get(name, "have no tensor")):
            RewardVLM.load(path)
    path = altered("another architecture")
    (path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(CheckpointError, match="are a 'clip'; EditReward is a 'qwen2_5_vl'"):
        RewardVLM.load(path)
    path = altered("cut")
    (path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        RewardVLM.load(path)
    without = save_tiny_vlm(tmp_path / "no token")
    save_file(tensors, without / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError):
        RewardVLM.load(without)


def test_a_head_is_asked_by_folder_alone() -> None:
    with pytest.raises(UsageError, match="a server of chat completions gives text alone; give the folder"):
        open_vlm(["http://127.0.0.1:9/v1"], "x", concurrency=1, timeout=1, rewards=True)


@pytest.mark.slow
def test_random_heads_fail_the_self_test(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench: Prepared = tagworld_bench(tmp_path / "bench")
    run = anchor_run(bench, "target", tmp_path / "target")
    description = read_judge("editreward").model_dump(mode="json", exclude_defaults=True)
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({**description, "least_pixels": 1, "most_pixels": 3136}))
    words = ["eval", "judge", str(bench.folder), str(run.folder), "--judge", str(file), "--endpoint", str(folder)]
    assert cli(words) == 1
    assert "fails its self-test" in capsys.readouterr().err, "random heads tell nothing apart"
    assert not (run.folder / "judged").exists()


def test_a_judge_without_a_scale_is_measured_by_the_range_of_its_values() -> None:
    """All its values are negative, as EditReward's are."""
    description = read_judge("editreward").model_copy(update={"least_pixels": 1, "most_pixels": 1 << 20})
    right = {one.case.instruction: Judge(description, Said(None)).questions(one) for one in built_in_cases()}
    output = {words: posed[0].question.parts[1].digest for words, posed in right.items()}  # type: ignore[union-attr]

    def reward(question: Question) -> float:
        words = str(question.parts[2])
        instruction = next(one for one in output if one in words)
        return -3.0 if question.parts[1].digest == output[instruction] else -7.0  # type: ignore[union-attr]

    def judge(rewarded: Any) -> Judge:
        return Judge(
            description,
            Said(lambda asked: Answer("ok", value=dict.fromkeys(asked.schema["properties"], rewarded(asked)))),
        )

    found = asyncio.run(self_test(judge(reward)))
    assert found.passed, found.faults
    assert found.means == {"right": -3.0, "copy": -7.0, "shuffled": -7.0, "black": -7.0}
    for one_value in (lambda asked: -7.0, lambda asked: float(asked.key < "8")):
        assert not asyncio.run(self_test(judge(one_value))).passed
    observed = [Observed("r", f"{n}", f"{n}", "t", -4.0 + n % 2, float(n % 2)) for n in range(12)]
    figures = calibrate(observed, description.middle)
    assert description.middle is None
    assert figures.correlation.value == pytest.approx(1.0)
    assert (figures.wrong_as_right, figures.right_as_wrong, figures.faults) == (None, None, ())


def test_words_of_others_are_read_from_a_pinned_file(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text('Rate <instruction> by {"score": [..]}')
    pinned = {"file": "words.txt", "sha256": hashlib.sha256(words.read_bytes()).hexdigest()}
    base = {"name": "theirs", "about": "x"}

    def read(**question: Any) -> JudgeDescription:
        file = tmp_path / "theirs.yaml"
        file.write_text(
            yaml.safe_dump({**base, "questions": [{"name": "q", "shows": ["source", "output"]} | question]})
        )
        return read_judge(str(file))

    found = read(words_from=pinned)
    assert found.questions[0].words == 'Rate {instruction} by {"score": [..]}'
    refused = {
        "pins another": {"words_from": {**pinned, "sha256": "0" * 64}},
        "cannot be read": {"words_from": {**pinned, "file": "none.txt"}},
        "have no place '<edit>' for the instruction": {"words_from": {**pinned, "instruction": "<edit>"}},
        "words and words_from": {"words_from": pinned, "words": "x"},
        "'sha256'": {"words_from": {"file": "words.txt"}},
    }
    for sentence, fields in refused.items():
        with pytest.raises(UsageError, match=sentence):
            read(**fields)


@pytest.mark.parametrize(
    ("sentence", "fields"),
    [
        ("several passes need a temperature", {"passes": 2}),
        ("a head gives one number", {"answers": "head"}),
        ("a geometric mean needs a scale", {"answers": "head", "overall": "geometric-mean"}),
    ],
)
def test_descriptions_that_contradict_themselves_are_refused(
    sentence: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    data = read_judge("vllmq").model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump({**data, **fields}))
    with pytest.raises(UsageError, match=sentence):
        read_judge(str(tmp_path / "bad.yaml"))


def test_no_two_learned_judges_share_a_value() -> None:
    """Each has a scale of its own; nothing averages them."""
    judges = [read_judge(name) for name in ("editscore", "editreward", "pvc_judge")]
    names = [measure.name for judge in judges for measure in judge.measures]
    assert len(set(names)) == len(names)
    assert {judge.name: judge.width for judge in judges} == {"editscore": 10.0, "editreward": None, "pvc_judge": 1.0}
