"""A compiled, distributed or hooked part gives the picture of the bare one, and is saved and adapted like it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import accelerate
import pytest
import torch
from support.tiny_model import build_pipeline
from torch import distributed, nn

from tagmoe.errors import UsageError
from tagmoe.model.intervention import Intervention, intervene
from tagmoe.model.wrapping import unwrapped
from tagmoe.pipeline.pipeline import TagMoEPipeline

PROMPT = "add a red circle"


def tokens(pipeline: Any, **options: Any) -> torch.Tensor:
    return pipeline(PROMPT, **({"seed": 0, "output_type": "latent"} | options)).images


@pytest.fixture(scope="module", autouse=True)
def one_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of one, and compiled modules that run as they are: this is about what a wrapper hides."""
    store = tmp_path_factory.mktemp("group") / "store"
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    with torch.compiler.set_stance("force_eager"):
        yield
    distributed.destroy_process_group()


def hooked(module: Any) -> Any:
    return accelerate.cpu_offload(module, execution_device=torch.device("cpu"))


def distributed_module(module: Any) -> Any:
    return nn.parallel.DistributedDataParallel(module)


WRAPPERS = pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        distributed_module,
        nn.DataParallel,
        lambda module: torch.compile(distributed_module(module)),
        hooked,
    ],
    ids=["compiled", "distributed", "data_parallel", "compiled_distributed", "hooked"],
)


@pytest.mark.slow
@WRAPPERS
@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_a_wrapped_part_gives_the_same_picture(tiny_pipeline: Any, part: str, wrap: Callable[[Any], Any]) -> None:
    pipe = build_pipeline()
    setattr(pipe, part, wrap(getattr(pipe, part)))
    run = {"image": torch.zeros(3, 64, 64), "output_type": "pt"}
    assert torch.equal(tokens(pipe, **run), tokens(tiny_pipeline, **run))
    assert pipe.device == torch.device("cpu") or wrap is hooked


@pytest.mark.slow
@WRAPPERS
def test_a_wrapped_transformer_is_built_with_and_returns_routing(
    tiny_pipeline: Any, wrap: Callable[[Any], Any]
) -> None:
    pipe = build_pipeline(transformer=wrap(build_pipeline().transformer))
    run = {"seed": 0, "return_routing": "full", "output_type": "latent"}
    found, wanted = pipe(PROMPT, **run).routing[0], tiny_pipeline(PROMPT, **run).routing[0]
    assert torch.equal(found.expert_ids_LBTA, wanted.expert_ids_LBTA)
    with pytest.raises(UsageError, match="return_routing is 'all'"):
        pipe(PROMPT, return_routing="all")


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [torch.compile, distributed_module, nn.DataParallel])
def test_a_wrapped_part_is_saved_without_its_wrapper(
    tmp_path: Path, tiny_pipeline: Any, wrap: Callable[[Any], Any]
) -> None:
    pipe = build_pipeline()
    pipe.transformer, pipe.vae = wrap(pipe.transformer), wrap(pipe.vae)
    wrapped = pipe.transformer
    pipe.save_pretrained(tmp_path)
    assert pipe.transformer is wrapped
    assert torch.equal(tokens(TagMoEPipeline.from_pretrained(tmp_path)), tokens(tiny_pipeline))


@pytest.mark.slow_but_first
@pytest.mark.parametrize("wrap", [torch.compile, distributed_module, nn.DataParallel])
def test_a_lora_on_a_wrapped_transformer_comes_and_goes(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    peft = pytest.importorskip("peft")
    trained = build_pipeline().transformer
    trained.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False))
    layers = peft.get_peft_model_state_dict(trained)
    TagMoEPipeline.save_lora_weights(tmp_path, transformer_lora_layers=layers)
    pipe = build_pipeline()
    before = tokens(pipe)
    pipe.transformer = wrap(pipe.transformer)
    pipe.load_lora_weights(tmp_path, adapter_name="one")
    assert pipe.get_list_adapters() == {"transformer": ["one"]}
    assert pipe.get_active_adapters() == ["one"]
    adapted = tokens(pipe)
    assert not torch.equal(adapted, before)
    pipe.set_adapters("one", 0.0)
    torch.testing.assert_close(tokens(pipe), before)
    pipe.set_adapters("one", 1.0)
    pipe.disable_lora()
    torch.testing.assert_close(tokens(pipe), before)
    pipe.enable_lora()
    pipe.fuse_lora()
    torch.testing.assert_close(tokens(pipe), adapted, atol=1e-5, rtol=1e-5)
    pipe.unfuse_lora()
    pipe.unload_lora_weights()
    torch.testing.assert_close(tokens(pipe), before)


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [torch.compile, distributed_module, nn.DataParallel])
def test_a_wrapped_part_changes_its_dtype_and_its_pipeline(wrap: Callable[[Any], Any]) -> None:
    pipe = build_pipeline()
    pipe.transformer = wrap(pipe.transformer)
    wrapped = pipe.transformer
    assert pipe.to(torch.bfloat16).transformer is wrapped
    assert unwrapped(wrapped).dtype == torch.bfloat16
    wanted = tokens(build_pipeline().to(torch.bfloat16))
    assert torch.equal(tokens(pipe), wanted)
    assert torch.equal(tokens(TagMoEPipeline.from_pipe(pipe, dtype=torch.bfloat16)), wanted)


@pytest.mark.slow
def test_a_switched_expert_shows_through_a_wrapper(tiny_pipeline: Any) -> None:
    pipe = build_pipeline()
    pipe.transformer = distributed_module(pipe.transformer)
    switch = [Intervention("forced", 0)]
    with intervene(pipe.transformer, switch), intervene(tiny_pipeline.transformer, switch):
        assert torch.equal(tokens(pipe), tokens(tiny_pipeline))
    with pytest.raises(UsageError, match="Compiled blocks"), intervene(torch.compile(pipe.transformer), switch):
        pass


def test_what_is_no_wrapper_is_given_back() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module, self.other = nn.Linear(1, 1), nn.Linear(1, 1)

    own = Own()
    assert unwrapped(own) is own
    assert unwrapped(None) is None
    assert unwrapped(torch.compile(nn.DataParallel(own))) is own
