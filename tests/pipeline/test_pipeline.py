"""One call generates and edits, and what users rely on holds: seeds repeat, batching and padding change nothing."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline
from PIL import Image
from support.tiny_model import TINY_TEMPLATE, build_pipeline

from tagmoe.errors import ImageError, UsageError
from tagmoe.pipeline.pipeline import QWEN_IMAGE_TEMPLATE, TagMoEPipeline

LONG = "add a red circle to the left of the blue square"
SHORT = "remove the triangle"


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def tokens(pipeline: Any, *args: Any, **options: Any) -> torch.Tensor:
    return pipeline(*args, output_type="latent", **options).images


def close(first: torch.Tensor, second: torch.Tensor, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


def test_it_equals_diffusers_qwen_image_pipeline(tiny_pipeline: Any) -> None:
    stock = QwenImagePipeline(
        scheduler=tiny_pipeline.scheduler,
        vae=tiny_pipeline.vae,
        text_encoder=tiny_pipeline.text_encoder,
        tokenizer=tiny_pipeline.tokenizer,
        transformer=tiny_pipeline.transformer,
    )
    stock.prompt_template_encode = TINY_TEMPLATE
    stock.prompt_template_encode_start_idx = 1
    stock.set_progress_bar_config(disable=True)
    theirs = stock(
        prompt=[LONG, SHORT],
        negative_prompt=[" ", " "],
        height=64,
        width=32,
        num_inference_steps=3,
        true_cfg_scale=4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 8)],
        output_type="pt",
    ).images
    ours = tiny_pipeline([LONG, SHORT], height=64, width=32, seed=7, output_type="pt").images
    close(ours, theirs, 1e-4)


@pytest.mark.slow
def test_the_template_of_qwen_image_drops_its_prefix(tiny_pipeline: Any) -> None:
    pipe = build_pipeline(prompt_template=QWEN_IMAGE_TEMPLATE, max_prompt_tokens=1024)
    before = QWEN_IMAGE_TEMPLATE.split("{}")[0]
    whole = pipe.tokenizer(QWEN_IMAGE_TEMPLATE.format(LONG)).input_ids
    embeds, mask = pipe.encode_prompt(LONG)
    assert embeds.shape[1] == mask.sum() == len(whole) - len(pipe.tokenizer(before).input_ids)


def test_batched_guidance_equals_two_passes(tiny_pipeline: Any) -> None:
    seen: list[torch.Tensor] = []
    guided = tokens(
        tiny_pipeline, LONG, picture(), seed=1, num_inference_steps=1, negative_prompt=SHORT, cfg_rescale=False
    )
    for prompt in (LONG, SHORT):
        seen.append(tokens(tiny_pipeline, prompt, picture(), seed=1, num_inference_steps=1, true_cfg_scale=1.0))
    close(guided, seen[1] + 4.0 * (seen[0] - seen[1]), 1e-4)


def test_rescaled_guidance_keeps_the_length_of_each_token(tiny_pipeline: Any) -> None:
    start = torch.zeros(1, 64, 16)
    run = {"latents": start, "num_inference_steps": 1, "seed": 0}
    # From zero noise one step is the negative velocity itself.
    plain = tokens(tiny_pipeline, LONG, true_cfg_scale=1.0, **run)
    guided = tokens(tiny_pipeline, LONG, true_cfg_scale=5.0, **run)
    close(guided.norm(dim=-1), plain.norm(dim=-1), 1e-4)
    assert not torch.allclose(guided, plain, atol=1e-4)


def test_one_forward_a_step_and_none_for_guidance_off(tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    forward = type(tiny_pipeline.transformer).forward

    def counted(self: Any, hidden_states: torch.Tensor, **options: Any) -> Any:
        sizes.append(hidden_states.shape[0])
        return forward(self, hidden_states, **options)

    monkeypatch.setattr(type(tiny_pipeline.transformer), "forward", counted)
    tokens(tiny_pipeline, SHORT, seed=0, num_inference_steps=2)
    tokens(tiny_pipeline, SHORT, seed=0, num_inference_steps=2, true_cfg_scale=1.0)
    assert sizes == [2, 2, 1, 1]


@pytest.mark.slow
def test_an_empty_negative_prompt_is_one_space(tiny_pipeline: Any) -> None:
    spaced = tokens(tiny_pipeline, SHORT, seed=0, negative_prompt=" ")
    for negative in (None, ""):
        assert torch.equal(tokens(tiny_pipeline, SHORT, seed=0, negative_prompt=negative), spaced)
    assert not torch.equal(tokens(tiny_pipeline, SHORT, seed=0, negative_prompt=LONG), spaced)


@pytest.mark.slow
def test_padding_a_prompt_changes_nothing(tiny_pipeline: Any) -> None:
    embeds, mask = tiny_pipeline.encode_prompt([LONG, SHORT])
    alone, alone_mask = tiny_pipeline.encode_prompt(SHORT)
    assert mask[1].sum() == alone_mask.sum() < mask.shape[1]
    close(embeds[1, : alone.shape[1]], alone[0])
    assert not embeds[1, alone.shape[1] :].any()
    batch = tokens(tiny_pipeline, [LONG, SHORT], picture(), seed=[1, 2])
    close(batch[1:], tokens(tiny_pipeline, SHORT, picture(), seed=2), 1e-4)


def test_same_seed_same_picture(tiny_pipeline: Any) -> None:
    first, again, other = (tiny_pipeline(SHORT, picture(), seed=seed).images[0] for seed in (5, 5, 6))
    assert np.array_equal(np.asarray(first), np.asarray(again))
    assert not np.array_equal(np.asarray(first), np.asarray(other))
    by_generator = tiny_pipeline(SHORT, picture(), generator=torch.Generator().manual_seed(5))
    assert np.array_equal(np.asarray(first), np.asarray(by_generator.images[0]))
    assert by_generator.seeds == [5]


def test_a_drawn_seed_is_reported_and_repeats_the_picture(tiny_pipeline: Any) -> None:
    drawn = tiny_pipeline(SHORT)
    assert np.array_equal(np.asarray(drawn.images[0]), np.asarray(tiny_pipeline(SHORT, seed=drawn.seeds[0]).images[0]))


def test_a_batch_of_edits_equals_single_edits(tiny_pipeline: Any) -> None:
    images = [[picture(1), picture(2)], [picture(3), picture(4)]]
    out = tiny_pipeline([LONG, SHORT], images, seed=3, num_images_per_prompt=2, output_type="latent")
    assert out.seeds == [3, 4, 5, 6]
    assert out.prompts == [LONG, LONG, SHORT, SHORT]
    for index, seed in enumerate(out.seeds):
        single = tokens(tiny_pipeline, out.prompts[index], images[index // 2], seed=seed)
        close(out.images[index : index + 1], single, 1e-4)


@pytest.mark.slow
def test_the_order_and_the_content_of_references_matter(tiny_pipeline: Any) -> None:
    one, two = picture(1), picture(2)
    edited = tokens(tiny_pipeline, SHORT, [one, two], seed=0)
    for other in ([two, one], [one], one, None):
        assert not torch.allclose(tokens(tiny_pipeline, SHORT, other, seed=0), edited, atol=1e-4)
    assert torch.equal(tokens(tiny_pipeline, SHORT, one, seed=0), tokens(tiny_pipeline, SHORT, [one], seed=0))


@pytest.mark.slow
def test_every_form_of_a_picture_edits_alike(tiny_pipeline: Any) -> None:
    source = picture()
    values = np.asarray(source)
    wanted = tokens(tiny_pipeline, SHORT, source, seed=0)
    for form in (values, torch.from_numpy(values.copy()).permute(2, 0, 1), source.convert("RGBA")):
        assert torch.equal(tokens(tiny_pipeline, SHORT, form, seed=0), wanted)


def test_references_keep_their_aspect_and_area_is_an_argument(tiny_pipeline: Any) -> None:
    run = {"seed": 0, "num_inference_steps": 1, "return_routing": "full"}
    wide = picture(size=(200, 50))
    grids = tiny_pipeline(SHORT, [wide, picture()], height=64, width=64, **run).routing[0].grids
    assert grids == ((1, 8, 8), (1, 4, 16), (1, 8, 8))
    grids = tiny_pipeline(SHORT, wide, height=64, width=64, reference_area=32 * 32, **run).routing[0].grids
    assert grids == ((1, 8, 8), (1, 2, 8))


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("source", "wanted"),
    [((64, 64), (64, 64)), ((300, 150), (88, 48)), ((150, 300), (48, 88)), ((1600, 100), (128, 32))],
)
def test_the_output_follows_the_first_reference(
    tiny_pipeline: Any, source: tuple[int, int], wanted: tuple[int, int]
) -> None:
    out = tiny_pipeline(SHORT, [picture(size=source), picture()], seed=0, num_inference_steps=1)
    assert out.images[0].size == wanted


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (8, 256)])
def test_the_size_asked_for_is_the_size_given(tiny_pipeline: Any, size: tuple[int, int]) -> None:
    height, width = size
    out = tiny_pipeline(SHORT, seed=0, height=height, width=width, num_inference_steps=1)
    assert out.images[0].size == (width, height)


@pytest.mark.slow
def test_output_types_agree(tiny_pipeline: Any) -> None:
    pil, array, tensor = (tiny_pipeline(SHORT, seed=0, output_type=kind).images for kind in ("pil", "np", "pt"))
    np.testing.assert_allclose(array[0], tensor[0].permute(1, 2, 0).numpy(), atol=1e-6)
    np.testing.assert_allclose(np.asarray(pil[0]), array[0] * 255, atol=0.51)
    latent = tokens(tiny_pipeline, SHORT, seed=0)
    decoded = tiny_pipeline.decode(tiny_pipeline.unpack_latents(latent, 64, 64))
    close((decoded / 2 + 0.5).clamp(0, 1), tensor, 1e-5)
    assert tiny_pipeline(SHORT, seed=0, output_type="pt", return_dict=False)[0].shape == (1, 3, 64, 64)


def test_packing_is_invertible_and_latents_are_normalised() -> None:
    pipe = build_pipeline()
    pixels = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain = pipe.encode_images(pixels)
    assert plain.shape == (2, 4, 16, 8)
    packed = pipe.pack_latents(plain)
    assert packed.shape == (2, 32, 16)
    assert torch.equal(pipe.unpack_latents(packed, 64, 32), plain)
    decoded = pipe.decode(plain)
    pipe.vae.register_to_config(latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[2.0, 3.0, 4.0, 5.0])
    scaled = pipe.encode_images(pixels)
    close(scaled[:, 1], (plain[:, 1] - 0.2) / 3.0)
    close(pipe.decode(scaled), decoded)
    assert torch.equal(pipe.encode_images(pixels), scaled)


@pytest.mark.slow
def test_given_latents_and_embeddings_are_used(tiny_pipeline: Any) -> None:
    generator = torch.Generator().manual_seed(4)
    noise = tiny_pipeline.pack_latents(torch.randn(1, 4, 16, 16, generator=generator))
    wanted = tokens(tiny_pipeline, SHORT, seed=4)
    close(tokens(tiny_pipeline, SHORT, latents=noise), wanted)
    embeds, mask = tiny_pipeline.encode_prompt(SHORT)
    negative, negative_mask = tiny_pipeline.encode_prompt(" ")
    given = tokens(
        tiny_pipeline,
        prompt_embeds=torch.cat([embeds, torch.ones_like(embeds)], dim=1),
        prompt_embeds_mask=torch.cat([mask, torch.zeros_like(mask)], dim=1),
        negative_prompt_embeds=negative,
        negative_prompt_embeds_mask=negative_mask,
        seed=4,
    )
    close(given, wanted, 1e-4)


@pytest.mark.parametrize("kind", ["stats", "full"])
def test_routing_covers_the_conditional_half_of_every_step(tiny_pipeline: Any, kind: str) -> None:
    run = {"seed": 0, "return_routing": kind, "num_inference_steps": 2, "num_images_per_prompt": 3}
    routing = tiny_pipeline(SHORT, picture(), **run).routing
    assert len(routing) == 2
    stats = routing[0] if kind == "stats" else routing[0].stats()
    assert stats.counts_LBN.shape == (2, 3, 4)
    assert (stats.counts_LBN.sum(-1) == 128).all()
    unguided = tiny_pipeline(SHORT, picture(), true_cfg_scale=1.0, **run).routing
    first = unguided[0] if kind == "stats" else unguided[0].stats()
    close(first.mean_probs_LBN, stats.mean_probs_LBN)
    assert tiny_pipeline(SHORT, seed=0).routing is None


@pytest.mark.slow
def test_a_dense_stock_transformer_works_but_has_no_routing() -> None:
    from diffusers import QwenImageTransformer2DModel

    dense = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6),
    ).eval()  # fmt: skip
    pipe = build_pipeline(transformer=dense)
    assert pipe(SHORT, picture(), seed=0).images[0].size == (64, 64)
    with pytest.raises(UsageError, match="no mixture blocks"):
        pipe(SHORT, return_routing="full")


def test_a_callback_sees_and_changes_latents(tiny_pipeline: Any) -> None:
    steps: list[int] = []

    def zero_at_the_end(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        return {"latents": torch.zeros_like(inputs["latents"])} if step == 2 else {}

    out = tokens(tiny_pipeline, SHORT, seed=0, callback_on_step_end=zero_at_the_end)
    assert steps == [0, 1, 2]
    assert not out.any()


def test_interrupting_stops_the_steps_and_still_gives_a_picture(tiny_pipeline: Any) -> None:
    steps: list[int] = []

    def stop(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        steps.append(step)
        pipe._interrupt = True
        return inputs

    assert tiny_pipeline(SHORT, seed=0, callback_on_step_end=stop).images[0].size == (64, 64)
    assert steps == [0]
    assert tiny_pipeline.interrupt
    tokens(tiny_pipeline, SHORT, seed=0)
    assert not tiny_pipeline.interrupt


@pytest.mark.slow
def test_the_rewriter_sees_the_references_and_its_answer_is_used(tiny_pipeline: Any) -> None:
    asked: list[tuple[str, int]] = []

    def rewrite(instruction: str, images: list[Image.Image]) -> str:
        asked.append((instruction, len(images)))
        return LONG

    out = tiny_pipeline(
        [SHORT, "go"], [[picture()] * 2, [picture()] * 2], seed=0, rewriter=rewrite, output_type="latent"
    )
    assert asked == [(SHORT, 2), ("go", 2)]
    assert out.prompts == [LONG, LONG]
    plain = tokens(tiny_pipeline, [LONG, LONG], [[picture()] * 2, [picture()] * 2], seed=0)
    assert torch.equal(out.images, plain)
    with pytest.raises(UsageError, match="rewriter answered"):
        tiny_pipeline(SHORT, rewriter=lambda instruction, images: "")


def test_dynamic_shifting_and_terminal_shift_are_honoured(tiny_pipeline: Any) -> None:
    scheduler = type(tiny_pipeline.scheduler)(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02, max_image_seq_len=8192
    )
    pipe = build_pipeline(scheduler=scheduler)
    assert torch.isfinite(tokens(pipe, SHORT, seed=0, num_inference_steps=2)).all()
    with pytest.raises(UsageError, match="at least 2"):
        pipe(SHORT, num_inference_steps=1)


@pytest.mark.slow
def test_half_precision_runs_and_starts_from_the_same_noise() -> None:
    pipe = build_pipeline()
    start: list[torch.Tensor] = []

    def keep(pipe: Any, step: int, timestep: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        start.append(inputs["latents"])
        return {}

    run = {"seed": 0, "num_inference_steps": 1, "callback_on_step_end": keep, "output_type": "pt"}
    exact = pipe(SHORT, picture(), **run).images
    rough = pipe.to(torch.bfloat16)(SHORT, picture(), **run).images
    assert start[0].dtype == start[1].dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.02


@pytest.mark.slow
def test_the_progress_bar_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = build_pipeline()
    pipe(SHORT, seed=0)
    assert capsys.readouterr().err == ""
    loud = build_pipeline()
    screen = io.StringIO()
    loud.set_progress_bar_config(disable=False, file=screen)
    loud(SHORT, seed=0)
    assert "3/3" in screen.getvalue()


def test_a_lora_loads_changes_the_picture_and_leaves_without_trace(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pipe = build_pipeline()
    before = tokens(pipe, SHORT, seed=0)
    trained = build_pipeline().transformer
    trained.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = peft.get_peft_model_state_dict(trained)
    TagMoEPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    pipe.load_lora_weights(tmp_path)
    assert not torch.allclose(tokens(pipe, SHORT, seed=0), before, atol=1e-4)
    pipe.unload_lora_weights()
    assert torch.equal(tokens(pipe, SHORT, seed=0), before)


@pytest.mark.slow
def test_unknown_words_are_refused_with_a_suggestion() -> None:
    pipe = build_pipeline(known_words=["Add", "a", "red", "circle", "it's"])
    assert pipe("ADD a red circle, it's", seed=0).images
    with pytest.raises(UsageError, match=r"'cirle' \(did you mean 'circle'\?\), 'zebra'"):
        pipe("add a red cirle zebra")
    with pytest.raises(UsageError, match="'blurry'"):
        pipe("add a circle", negative_prompt="blurry")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": "  \n"}, "prompt is empty"),
    ({"prompt": []}, "prompt is empty"),
    ({"prompt": None}, "No prompt"),
    ({"prompt": 3}, "type int"),
    ({"prompt": [SHORT, 3]}, "type list"),
    ({"prompt": "word " * 100}, r"has \d+ tokens; at most 64"),
    ({"prompt": "a <|image_pad|>"}, "control token"),
    ({"prompt_embeds": torch.zeros(1, 2, 32)}, "Both prompt and prompt_embeds"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 2, 32), "prompt_embeds_mask": torch.ones(1, 3)}, "its mask"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 2, 31)}, r"\(1, tokens, 32\)"),
    ({"negative_prompt": ["a", "b"]}, "2 entries for 1 prompt;"),
    ({"height": 64}, "both of them"),
    ({"height": 0, "width": 64}, "height is 0"),
    ({"height": 64, "width": -8}, "width is -8"),
    ({"height": 60, "width": 64}, "multiple of 8"),
    ({"height": 64.0, "width": 64}, "multiple of 8"),
    ({"height": 64, "width": 100000}, "from 8 to 256"),
    ({"reference_area": 3}, "reference_area is 3"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ({"num_inference_steps": 2.5}, r"num_inference_steps is 2\.5"),
    ({"num_inference_steps": True}, "num_inference_steps is True"),
    ({"true_cfg_scale": float("nan")}, "true_cfg_scale is nan"),
    ({"true_cfg_scale": float("inf")}, "true_cfg_scale is inf"),
    ({"true_cfg_scale": -1}, "true_cfg_scale is -1"),
    ({"true_cfg_scale": "4"}, "true_cfg_scale is '4'"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 1.5}, r"seed is 1\.5"),
    ({"seed": [1, 2]}, "2 entries for 1 image;"),
    ({"seed": 1, "generator": torch.Generator().manual_seed(2)}, "Both seed and generator"),
    ({"generator": [torch.Generator()] * 2}, "2 entries for 1 image;"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt is 0"),
    ({"latents": torch.zeros(1, 63, 16)}, r"\(1, 64, 16\)"),
    ({"output_type": "jpeg"}, "output_type is 'jpeg'"),
    ({"callback_on_step_end_tensor_inputs": ["embeds"]}, "cannot get embeds; it can get latents, prompt_embeds"),
    ({"return_routing": "all"}, "return_routing is 'all'"),
    ({"image": []}, "empty list"),
    ({"prompt": [SHORT, LONG], "image": [picture()] * 3}, "3 entries for 2 prompts"),
    ({"prompt": [SHORT, LONG], "image": [[picture()]]}, "1 entry for 2 prompts"),
    ({"prompt": [SHORT, LONG], "image": [[picture()], [picture()] * 2]}, "same number"),
    ({"prompt": [SHORT, LONG], "image": [[picture()], [picture(size=(64, 200))]]}, "different aspects"),
    ({"image": picture(size=(400, 20))}, "400x20"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_a_bad_argument_is_one_sentence(tiny_pipeline: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        tiny_pipeline(**({"prompt": SHORT} | options))
    assert "\n" not in str(caught.value)


def test_a_bad_picture_is_an_image_error(tiny_pipeline: Any) -> None:
    with pytest.raises(ImageError, match="no picture file"):
        tiny_pipeline(SHORT, "nowhere.png")


def test_parts_that_do_not_fit_are_refused(tiny_pipeline: Any) -> None:
    from tagmoe.pipeline.components import make_autoencoder

    with pytest.raises(UsageError, match="trained together"):
        build_pipeline(vae=make_autoencoder(base_dim=8, z_dim=8))
    with pytest.raises(UsageError, match="exactly once"):
        build_pipeline(prompt_template="no place")
