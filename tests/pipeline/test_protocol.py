"""The call follows diffusers' protocol: the state of a run, sigmas, schedulers, callbacks, lengths, other pipelines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import PipelineCallback
from diffusers.models.transformers.transformer_qwenimage import QwenTimestepProjEmbeddings
from PIL import Image
from support.tiny_model import TINY_TEMPLATE, build_dense, build_pipeline

from tagmoe.errors import UsageError
from tagmoe.model.transformer import TagMoETransformer2DModel
from tagmoe.pipeline.pipeline import TagMoEPipeline

PROMPT = "add a red circle"
OTHER = "remove the triangle"
STOCK_PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def tokens(pipeline: Any, *args: Any, **options: Any) -> torch.Tensor:
    return pipeline(*args, **({"seed": 0, "output_type": "latent"} | options)).images


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def with_scheduler(pipeline: Any, scheduler: Any) -> TagMoEPipeline:
    return TagMoEPipeline(**(pipeline.components | {"scheduler": scheduler}), **settings(pipeline))


def settings(pipeline: Any) -> dict[str, Any]:
    names = ("prompt_template", "max_prompt_tokens", "default_steps", "default_size")
    return {name: pipeline.config[name] for name in names}


def test_the_state_of_a_run_is_seen_in_a_callback_and_after_it() -> None:
    pipe = build_pipeline()
    assert (pipe.num_timesteps, pipe.current_timestep, pipe.guidance_scale, pipe.attention_kwargs) == (
        0,
        None,
        None,
        None,
    )
    seen = []

    def look(pipe: Any, step: int, timestep: Any, inputs: Any) -> None:
        seen.append((pipe.num_timesteps, float(pipe.current_timestep), float(timestep)))

    tokens(pipe, PROMPT, callback_on_step_end=look, guidance_scale=3.0)
    assert [count for count, _, _ in seen] == [3, 3, 3]
    assert all(now == timestep for _, now, timestep in seen)
    assert (pipe.num_timesteps, pipe.current_timestep, pipe.guidance_scale, pipe.attention_kwargs) == (3, None, 3.0, {})


@pytest.mark.slow
def test_sigmas_replace_the_number_of_steps(tiny_pipeline: Any) -> None:
    even = tokens(tiny_pipeline, PROMPT, num_inference_steps=3)
    for sigmas in ([1.0, 2 / 3, 1 / 3], np.linspace(1, 1 / 3, 3), torch.linspace(1, 1 / 3, 3)):
        torch.testing.assert_close(tokens(tiny_pipeline, PROMPT, num_inference_steps=7, sigmas=sigmas), even)
    assert not torch.equal(tokens(tiny_pipeline, PROMPT, sigmas=[1.0, 0.8, 0.1]), even)
    assert tiny_pipeline.num_timesteps == 3


@pytest.mark.parametrize("sigmas", [[], "1", [1.0, 1.0], [0.5, 0.6], [1.5], [1.0, 0.0], [float("nan")], [True], 0.5])
def test_bad_sigmas_are_one_sentence(tiny_pipeline: Any, sigmas: Any) -> None:
    with pytest.raises(UsageError, match=r"^sigmas is "):
        tiny_pipeline(PROMPT, sigmas=sigmas)


# diffusers: a solver makes a NumPy array of a tensor in the old way
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchHeunDiscreteScheduler(),
        FlowMatchLCMScheduler(),
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=500),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
        DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_other_schedulers_of_flows_come_near_the_same_picture(tiny_pipeline: Any, scheduler: Any) -> None:
    run = {"num_inference_steps": 20, "true_cfg_scale": 1.0}
    wanted = tokens(tiny_pipeline, PROMPT, **run)
    found = tokens(with_scheduler(tiny_pipeline, scheduler), PROMPT, **run)
    assert torch.equal(found, tokens(with_scheduler(tiny_pipeline, scheduler), PROMPT, **run))
    if not isinstance(scheduler, FlowMatchLCMScheduler):  # it draws noise in every step
        assert (found - wanted).norm() < 0.2 * wanted.norm()


@pytest.mark.parametrize(
    ("scheduler", "words"),
    [
        (DDIMScheduler(), "DDIMScheduler cannot follow a flow"),
        (UniPCMultistepScheduler(), "use_flow_sigmas=True"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction"), "use_flow_sigmas=True"),
    ],
)
def test_a_scheduler_of_another_kind_is_refused(tiny_pipeline: Any, scheduler: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        with_scheduler(tiny_pipeline, scheduler)(PROMPT)


def test_sigmas_for_a_scheduler_without_them_are_refused(tiny_pipeline: Any) -> None:
    pipe = with_scheduler(tiny_pipeline, FlowMatchHeunDiscreteScheduler())
    with pytest.raises(UsageError, match="FlowMatchHeunDiscreteScheduler takes no sigmas"):
        pipe(PROMPT, sigmas=[1.0, 0.5])


@pytest.mark.slow
def test_a_callback_changes_prompt_embeds_for_the_steps_to_come(tiny_pipeline: Any) -> None:
    other, _ = tiny_pipeline.encode_prompt(PROMPT)

    def change(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        assert inputs.keys() == {"latents", "prompt_embeds"}
        inputs["prompt_embeds"] = -inputs["prompt_embeds"]
        return inputs

    run = {"prompt_embeds": other, "true_cfg_scale": 1.0}
    options = {"callback_on_step_end": change, "callback_on_step_end_tensor_inputs": ["latents", "prompt_embeds"]}
    assert not torch.equal(tokens(tiny_pipeline, **run, **options), tokens(tiny_pipeline, **run))
    one = {"num_inference_steps": 1}
    assert torch.equal(tokens(tiny_pipeline, **run, **options, **one), tokens(tiny_pipeline, **run, **one))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"latents": torch.zeros(1, 2, 3)}, r"gave latents as \(1, 2, 3\)"),
        ({"prompt_embeds": None}, "gave prompt_embeds as NoneType"),
        ([1], "answered with list"),
    ],
)
def test_a_bad_answer_of_a_callback_is_one_sentence(tiny_pipeline: Any, answer: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tiny_pipeline(PROMPT, callback_on_step_end=lambda *_: answer)


def test_a_callback_object_of_diffusers_says_which_tensors_it_wants(tiny_pipeline: Any) -> None:
    class Zeros(PipelineCallback):
        tensor_inputs = ["latents", "prompt_embeds"]  # noqa: RUF012

        def callback_fn(self, pipeline: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
            return {name: torch.zeros_like(tensor) for name, tensor in inputs.items()}

    assert not tokens(tiny_pipeline, PROMPT, callback_on_step_end=Zeros()).any()


@pytest.mark.slow
def test_attention_kwargs_scale_a_lora(tiny_pipeline: Any) -> None:
    peft = pytest.importorskip("peft")
    pipe = build_pipeline()
    plain = tokens(pipe, PROMPT)
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    full = tokens(pipe, PROMPT)
    given = {"scale": 0.0}
    torch.testing.assert_close(tokens(pipe, PROMPT, attention_kwargs=given), plain)
    assert given == {"scale": 0.0}
    torch.testing.assert_close(tokens(pipe, PROMPT), full)
    with pytest.raises(UsageError, match="attention_kwargs is of type list"):
        pipe(PROMPT, attention_kwargs=[])


def test_max_sequence_length_cuts_what_is_refused_without_it(tiny_pipeline: Any) -> None:
    long = "remove the green triangle " * 40
    with pytest.raises(UsageError, match="at most 64"):
        tiny_pipeline.encode_prompt(long)
    embeds, mask = tiny_pipeline.encode_prompt(long, max_sequence_length=12)
    assert embeds.shape == (1, 12, 32)
    assert mask.all()
    longer, _ = tiny_pipeline.encode_prompt(long, max_sequence_length=20)
    torch.testing.assert_close(longer[:, :12], embeds)
    assert torch.equal(
        tokens(tiny_pipeline, long, max_sequence_length=12), tokens(tiny_pipeline, long[:200], max_sequence_length=12)
    )
    given = tokens(tiny_pipeline, prompt_embeds=longer, max_sequence_length=12, true_cfg_scale=1.0)
    torch.testing.assert_close(given, tokens(tiny_pipeline, prompt_embeds=embeds, true_cfg_scale=1.0))
    for bad in (0, 1.5, True):
        with pytest.raises(UsageError, match="max_sequence_length is"):
            tiny_pipeline(PROMPT, max_sequence_length=bad)
    with pytest.raises(UsageError, match="at most 64"):
        tiny_pipeline(long, max_sequence_length=100)


def test_encode_prompt_takes_diffusers_arguments(tiny_pipeline: Any) -> None:
    embeds, mask = tiny_pipeline.encode_prompt(prompt=[PROMPT, OTHER], device="cpu", num_images_per_prompt=2)
    once, once_mask = tiny_pipeline.encode_prompt([PROMPT, OTHER])
    assert torch.equal(embeds, once.repeat_interleave(2, dim=0))
    assert torch.equal(mask, once_mask.repeat_interleave(2, dim=0))
    again, _ = tiny_pipeline.encode_prompt(prompt_embeds=once, prompt_embeds_mask=once_mask, num_images_per_prompt=2)
    assert torch.equal(again, embeds)
    with pytest.raises(UsageError, match="No prompt"):
        tiny_pipeline.encode_prompt()
    with pytest.raises(UsageError, match="without prompt_embeds"):
        tiny_pipeline(PROMPT, prompt_embeds_mask=mask)


@pytest.mark.slow
def test_a_flat_list_is_one_picture_for_each_prompt(tiny_pipeline: Any) -> None:
    flat = tokens(tiny_pipeline, [PROMPT, OTHER], [picture(0), picture(1)])
    assert torch.equal(flat, tokens(tiny_pipeline, [PROMPT, OTHER], [[picture(0)], [picture(1)]]))
    assert not torch.equal(flat, tokens(tiny_pipeline, [PROMPT, OTHER], [picture(1), picture(0)]))
    both = tokens(tiny_pipeline, [PROMPT], [picture(0), picture(1)])
    assert torch.equal(both, tokens(tiny_pipeline, PROMPT, [picture(0), picture(1)]))
    embeds, mask = tiny_pipeline.encode_prompt([PROMPT, OTHER])
    given = tokens(tiny_pipeline, None, [picture(0), picture(1)], prompt_embeds=embeds, prompt_embeds_mask=mask)
    torch.testing.assert_close(given, flat)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prompt_embeds": [1, 2]}, "prompt_embeds is of type list"),
        ({"prompt_embeds": torch.zeros(1, 2, 32), "prompt_embeds_mask": [1, 1]}, "prompt_embeds_mask is of type list"),
        ({"prompt": PROMPT, "negative_prompt_embeds": 3}, "negative_prompt_embeds is of type int"),
        ({"prompt": PROMPT, "negative_prompt_embeds_mask": torch.ones(1, 2)}, "without negative_prompt_embeds"),
        ({"prompt": PROMPT, "callback_on_step_end": 3}, "callback_on_step_end is of type int"),
    ],
)
def test_what_is_of_another_type_is_one_sentence(tiny_pipeline: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        tiny_pipeline(**options)


def test_a_callback_may_ask_for_no_tensor(tiny_pipeline: Any) -> None:
    given: list[Any] = []
    options = {"callback_on_step_end": lambda *call: given.append(call[3]), "callback_on_step_end_tensor_inputs": None}
    assert torch.equal(tokens(tiny_pipeline, PROMPT, **options), tokens(tiny_pipeline, PROMPT))
    assert given == [{}, {}, {}]


class GuidedEmbedding(QwenTimestepProjEmbeddings):
    """A time embedding with a place for the guidance scale."""

    def forward(self, timestep: Any, guidance: Any, hidden_states: Any = None, addition_t_cond: Any = None) -> Any:
        if hidden_states is None:
            return super().forward(timestep, guidance)
        return super().forward(timestep, hidden_states) * guidance[:, None] / 1000


def test_a_guidance_distilled_model_gets_its_scale(tiny_pipeline: Any) -> None:
    pipe = build_pipeline()
    pipe.transformer.time_text_embed = GuidedEmbedding(embedding_dim=32)
    pipe.transformer.register_to_config(guidance_embeds=True)
    pipe = TagMoEPipeline(**pipe.components, **settings(pipe))
    with pytest.raises(UsageError, match="guidance-distilled; give guidance_scale"):
        pipe(PROMPT)
    low, high = (tokens(pipe, PROMPT, guidance_scale=scale) for scale in (1.0, 5.0))
    assert not torch.equal(low, high)

    def raise_it(pipe: Any, *_: Any) -> None:
        pipe._guidance_scale = 5.0

    changed = tokens(pipe, PROMPT, guidance_scale=1.0, callback_on_step_end=raise_it)
    assert not torch.equal(changed, low)
    for bad in ("3", float("nan"), True):
        with pytest.raises(UsageError, match="guidance_scale is"):
            pipe(PROMPT, guidance_scale=bad)
    assert torch.equal(tokens(tiny_pipeline, PROMPT, guidance_scale=7.0), tokens(tiny_pipeline, PROMPT))


@pytest.mark.parametrize("option", ["guidance_embeds", "use_additional_t_cond"])
def test_a_variant_that_cannot_run_is_refused_at_load(tmp_path: Any, option: str) -> None:
    pipe = build_pipeline()
    config = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
    other = TagMoETransformer2DModel(**(config | {option: True}))
    with pytest.raises(UsageError, match=f"transformer has {option}"):
        build_pipeline(transformer=other)
    pipe.save_pretrained(tmp_path)
    other.save_pretrained(tmp_path / "transformer")
    with pytest.raises(UsageError, match=f"transformer has {option}"):
        TagMoEPipeline.from_pretrained(tmp_path)


def test_the_transformer_refuses_inputs_that_do_not_fit_its_variant(tiny_pipeline: Any) -> None:
    inputs = {
        "hidden_states": torch.zeros(1, 4, 16),
        "encoder_hidden_states": torch.zeros(1, 2, 32),
        "timestep": torch.ones(1),
        "img_shapes": [[(1, 2, 2)]],
    }
    with pytest.raises(UsageError, match="no layer for a guidance scale"):
        tiny_pipeline.transformer(**inputs, guidance=torch.ones(1))
    config = {name: value for name, value in tiny_pipeline.transformer.config.items() if not name.startswith("_")}
    with pytest.raises(UsageError, match="pass additional_t_cond"):
        TagMoETransformer2DModel(**(config | {"use_additional_t_cond": True}))(**inputs)


@pytest.mark.slow
def test_zero_cond_t_edits_batches_as_it_edits_one() -> None:
    pipe = build_pipeline()
    config = {name: value for name, value in pipe.transformer.config.items() if not name.startswith("_")}
    torch.manual_seed(0)
    pipe = build_pipeline(transformer=TagMoETransformer2DModel(**(config | {"zero_cond_t": True})).eval())
    batch = tokens(pipe, [PROMPT, OTHER], [picture(0), picture(1)], seed=3, num_images_per_prompt=2)
    for index, (prompt, source) in enumerate([(PROMPT, 0), (PROMPT, 0), (OTHER, 1), (OTHER, 1)]):
        alone = tokens(pipe, prompt, picture(source), seed=3 + index)
        torch.testing.assert_close(batch[index : index + 1], alone, atol=1e-4, rtol=1e-4)
    assert torch.isfinite(tokens(pipe, PROMPT)).all()
    flat = {
        "hidden_states": torch.ones(2, 4, 16),
        "encoder_hidden_states": torch.ones(2, 2, 32),
        "timestep": torch.ones(2),
    }
    bare = pipe.transformer(**flat, img_shapes=[(1, 2, 2)] * 2).sample
    assert torch.equal(bare, pipe.transformer(**flat, img_shapes=[[(1, 2, 2)]] * 2).sample)


def test_routing_under_context_parallelism_is_refused() -> None:
    pipe = build_pipeline()
    pipe.transformer._parallel_config = SimpleNamespace(context_parallel_config=object())
    with pytest.raises(UsageError, match="under context parallelism"):
        pipe(PROMPT, return_routing="stats")


def test_routing_is_shown_in_one_line(tiny_pipeline: Any) -> None:
    trace = tiny_pipeline(PROMPT, seed=0, num_inference_steps=1, return_routing="full").routing[0]
    assert repr(trace) == ("RoutingTrace(layers=2, batch=1, tokens=64, experts=4, top_k=1, grids=((1, 8, 8),))")
    assert repr(trace.stats()) == "RouterStats(layers=2, batch=1, experts=4)"


@pytest.mark.slow_but_first
@pytest.mark.parametrize("dense", [True, False], ids=["dense", "mixture"])
def test_from_pipe_goes_both_ways(dense: bool) -> None:
    ours = build_pipeline(known_words=PROMPT.split(), **({"transformer": build_dense(4)} if dense else {}))
    ours.alignment = {"tags": torch.ones(1)}
    wanted = tokens(ours, PROMPT)
    # diffusers goes by the exact class of a transformer, so a mixture has to be handed over.
    handed = {} if dense else {"transformer": ours.transformer}
    stock = QwenImagePipeline.from_pipe(ours, **handed)
    assert stock.transformer is ours.transformer
    back = TagMoEPipeline.from_pipe(stock)
    assert back.vae is ours.vae
    assert back.config.known_words == ours.config.known_words
    assert torch.equal(tokens(back, PROMPT), wanted)
    twin = TagMoEPipeline.from_pipe(ours)
    assert twin.alignment is ours.alignment
    assert torch.equal(tokens(twin, PROMPT), wanted)


@pytest.mark.slow
def test_from_pipe_of_an_editing_pipeline_drops_its_processor(tmp_path: Any) -> None:
    ours = build_pipeline()
    stock = QwenImageEditPlusPipeline(**{name: getattr(ours, name) for name in STOCK_PARTS}, processor=None)
    taken = TagMoEPipeline.from_pipe(stock, **settings(ours))
    assert torch.equal(tokens(taken, PROMPT, picture(0)), tokens(ours, PROMPT, picture(0)))
    taken.save_pretrained(tmp_path)
    assert torch.equal(tokens(TagMoEPipeline.from_pretrained(tmp_path), PROMPT), tokens(ours, PROMPT))
    there = QwenImageEditPlusPipeline.from_pipe(taken, transformer=taken.transformer, processor=None)
    assert there.vae is ours.vae


def test_from_pipe_without_the_parts_is_one_sentence() -> None:
    ours = build_pipeline()
    lacking = SimpleNamespace(config={}, components={"vae": ours.vae})
    with pytest.raises(UsageError, match="does not have all parts of a TagMoEPipeline"):
        TagMoEPipeline.from_pipe(lacking)
    assert ours.config.prompt_template == TINY_TEMPLATE
