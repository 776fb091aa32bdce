"""The authors' released weights: every name in their checkpoint, what it is, and which weight of ours it becomes.

The release is one transformer over the base Qwen-Image. The image MLPs of its last blocks are MegaBlocks' dropless
mixtures: one bias-free router, top-1 of a softmax over all experts that is not renormalised, experts of two matrices
without biases (`gate: linear, expert_bias: false` here). The second matrix is stored transposed, seen from an
`nn.Linear`. A shared output bias is in the file but the authors' forward never adds it, so it is dropped, by name. The
tag embedding and the alignment head (paper 3.3) are not needed to draw and are kept for analysis.

This module works with names and shapes and imports no torch: a converter plans before it reads a weight.

Shapes: D width, F = 4 * D, N experts, E entries of the text embedding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tagmoe.errors import CheckpointError, MissingError
from tagmoe.files.hub import SUFFIXES, local_folder
from tagmoe.files.json_files import read_object
from tagmoe.sentences import counted
from tagmoe.weights.layout import DENSE_DEFAULTS, SETTINGS, ffn_layout
from tagmoe.weights.shards import PICKLES, STEM, Entry, read_entries, read_file, read_files

Shape = tuple[int, ...]

# Where the authors' own code looks for its weights in a repository, and what a release takes from its base.
RELEASE_FILES = (f"{STEM}*.safetensors", f"{STEM}*.json", "transformer/*.safetensors", "transformer/*.json")
BASE_FILES = (
    "model_index.json",
    "transformer/config.json",
    *(f"{part}/*{suffix}" for part in ("vae", "text_encoder", "tokenizer", "scheduler") for suffix in SUFFIXES),
)
DTYPES = ("F32", "F16", "BF16")

# The alignment parts of the release: 18 tags, 512 semantic dimensions, a head of three layers that is 256 wide.
NUM_TAGS = 18
SEMANTIC_DIM = 512
HEAD_HIDDEN = 256

TIMESTEP_CHANNELS = 256
ROUTER = re.compile(r"transformer_blocks\.(\d+)\.img_mlp\.router\.layer\.weight")
COUNTS = tuple(name for name, default in DENSE_DEFAULTS.items() if type(default) is int)


@dataclass(frozen=True)
class Piece:
    """One weight of our transformer, `name` of `shape`, made of the released tensor `source`.

    rows: take only its rows [start, stop), which are contiguous bytes of the file. transposed: transpose those rows.
    """

    name: str
    source: str
    shape: Shape
    rows: tuple[int, int] | None = None
    transposed: bool = False


@dataclass(frozen=True)
class ReleasePlan:
    """Where every key of a release goes; `config` is that of our transformer.

    weights: the transformer. alignment: tag embedding and head, under the names of `Objective`. dropped: keys that
    the authors' own forward does not use.
    """

    config: dict[str, Any]
    weights: tuple[Piece, ...]
    alignment: tuple[Piece, ...]
    dropped: tuple[str, ...]

    def counts(self) -> dict[str, int]:
        """How many keys of the release were taken as they are, split, split and transposed, kept, dropped."""
        split = {piece.source for piece in self.weights if piece.rows is not None}
        transposed = {piece.source for piece in self.weights if piece.transposed}
        return {
            "taken": len({piece.source for piece in self.weights}) - len(split),
            "split": len(split - transposed),
            "transposed": len(transposed),
            "kept_for_analysis": len(self.alignment),
            "dropped": len(self.dropped),
        }


# Names ----------------------------------------------------------------------------------------------------------


def _linear(name: str, wide: int, narrow: int) -> dict[str, Shape]:
    return {f"{name}.weight": (wide, narrow), f"{name}.bias": (wide,)}


def dense_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Names and shapes of diffusers' QwenImageTransformer2DModel of this config."""
    full = DENSE_DEFAULTS | dict(config)
    dim, text = full["num_attention_heads"] * full["attention_head_dim"], full["joint_attention_dim"]
    out = full["patch_size"] ** 2 * (full["out_channels"] or full["in_channels"])
    shapes: dict[str, Shape] = {
        **_linear("time_text_embed.timestep_embedder.linear_1", dim, TIMESTEP_CHANNELS),
        **_linear("time_text_embed.timestep_embedder.linear_2", dim, dim),
        "txt_norm.weight": (text,),
        **_linear("img_in", dim, full["in_channels"]),
        **_linear("txt_in", dim, text),
        **_linear("norm_out.linear", 2 * dim, dim),
        **_linear("proj_out", out, dim),
    }
    if full.get("use_additional_t_cond"):
        shapes["time_text_embed.addition_t_embedding.weight"] = (2, dim)
    projections = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    for index in range(full["num_layers"]):
        block = f"transformer_blocks.{index}"
        for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            shapes[f"{block}.attn.{norm}.weight"] = (full["attention_head_dim"],)
        for projection in projections:
            shapes |= _linear(f"{block}.attn.{projection}", dim, dim)
        for stream in ("img", "txt"):
            shapes |= _linear(f"{block}.{stream}_mod.1", 6 * dim, dim)
            shapes |= {f"{block}.{stream}_mlp.{name}": shape for name, shape in ffn_layout(dim).items()}
    return shapes


def alignment_shapes(num_experts: int) -> dict[str, Shape]:
    """Names and shapes of the alignment parts, the same in the release and in `tagmoe.losses.Objective`."""
    return {
        "tag_embedding.weight": (NUM_TAGS, SEMANTIC_DIM),
        **_linear("router_head.net.0", HEAD_HIDDEN, num_experts),
        **_linear("router_head.net.2", HEAD_HIDDEN, HEAD_HIDDEN),
        **_linear("router_head.net.4", SEMANTIC_DIM, HEAD_HIDDEN),
    }


def mixture_pieces(block: int, dim: int, num_experts: int) -> tuple[dict[str, Shape], list[Piece], str]:
    """A mixture block's image MLP: the released shapes, our weights made of them, and the unused bias."""
    here, ffn = f"transformer_blocks.{block}.img_mlp", ffn_layout(dim)["net.0.proj.weight"][0]
    router, first, second = (f"{here}.{name}" for name in ("router.layer.weight", "experts.mlp.w1", "experts.mlp.w2"))
    shapes: dict[str, Shape] = {
        router: (num_experts, dim),
        first: (num_experts * ffn, dim),
        second: (num_experts * ffn, dim),
    }
    pieces = [Piece(f"{here}.gate.proj_out.weight", router, (num_experts, dim))]
    for expert in range(num_experts):
        rows, name = (expert * ffn, (expert + 1) * ffn), f"{here}.experts.{expert}"
        # h = x @ w1[e].T: w1 is stored as in nn.Linear. y = gelu(h) @ w2[e]: w2 is stored transposed.
        pieces.append(Piece(f"{name}.net.0.proj.weight", first, (ffn, dim), rows))
        pieces.append(Piece(f"{name}.net.2.weight", second, (dim, ffn), rows, transposed=True))
    return shapes, pieces, f"{here}.experts.bias"


# The plan -------------------------------------------------------------------------------------------------------


def plan_release(
    released: Mapping[str, Entry], base_config: Mapping[str, Any], *, source: str = "the release"
) -> ReleasePlan:
    """Plan what becomes of each tensor of a release, from the names, dtypes and shapes of `read_release`.

    base_config: the transformer config of the base (`read_base_config`). The keys tell the numbers of mixture blocks
    and of experts. One prefix in front of all keys, such as "module.", is ignored.
    Raises CheckpointError, naming keys, for weights of another layout, a missing or unknown key, other dimensions or
    dtypes.
    """
    prefix = _common_prefix(released)
    tensors = {key.removeprefix(prefix): value for key, value in released.items()}
    config = DENSE_DEFAULTS | dict(base_config)
    dim, layers = config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"]
    blocks = sorted(int(found[1]) for key in tensors if (found := ROUTER.fullmatch(key)))
    if not blocks:
        raise CheckpointError(
            f"{source!r} does not have the layout of the authors' weights: it has no key "
            "'transformer_blocks.*.img_mlp.router.layer.weight'; give their folder, or load this one without base."
        )
    if blocks != list(range(layers - len(blocks), layers)):
        raise CheckpointError(
            f"{source!r} has mixtures in the blocks {_listed(map(str, blocks))}, which are not the last ones of the "
            f"{counted(layers, 'block')} of the base; give the base that it was trained from."
        )
    router_shape = tensors[f"transformer_blocks.{blocks[0]}.img_mlp.router.layer.weight"].shape
    num_experts = router_shape[0] if len(router_shape) == 2 else 0
    if num_experts < 2:
        raise CheckpointError(f"{source!r} has a router of shape {list(router_shape)}; it must be [experts, {dim}].")

    wanted, weights, optional = _wanted(config, blocks, dim, num_experts)
    alignment = alignment_shapes(num_experts)
    if alignment.keys() & tensors.keys():
        wanted |= alignment
    known = wanted | optional
    _refuse(
        source,
        missing=[key for key in wanted if key not in tensors],
        unknown=[key for key in tensors if key not in known],
        **{
            "of another shape": [
                f"{key} is {list(entry.shape)} and must be {list(known[key])}"
                for key, entry in tensors.items()
                if key in known and entry.shape != known[key]
            ],
            f"of a dtype that is not {', '.join(DTYPES)}": [
                f"{key} is {entry.dtype}"
                for key, entry in tensors.items()
                if key in known and entry.dtype not in DTYPES
            ],
        },
    )
    mixture = {
        "num_moe_blocks": len(blocks),
        "num_experts": num_experts,
        "top_k": 1,
        "gate": "linear",
        "gate_hidden": None,
        "expert_bias": False,
        "expert_scale": 1.0,
        **SETTINGS,
    }
    return ReleasePlan(
        config=config | mixture,
        weights=tuple(replace(piece, source=prefix + piece.source) for piece in weights),
        alignment=tuple(
            Piece(key, prefix + key, shape) for key, shape in alignment.items() if prefix + key in released
        ),
        dropped=tuple(prefix + key for key in optional if key in tensors),
    )


def _wanted(
    config: Mapping[str, Any], blocks: list[int], dim: int, num_experts: int
) -> tuple[dict[str, Shape], list[Piece], dict[str, Shape]]:
    """The released shapes of a whole transformer, our weights made of them, and the optional keys."""
    moe_mlps = tuple(f"transformer_blocks.{block}.img_mlp." for block in blocks)
    wanted = {key: shape for key, shape in dense_shapes(config).items() if not key.startswith(moe_mlps)}
    weights = [Piece(key, key, shape) for key, shape in wanted.items()]
    optional: dict[str, Shape] = {}
    for block in blocks:
        shapes, pieces, bias = mixture_pieces(block, dim, num_experts)
        wanted |= shapes
        weights += pieces
        optional[bias] = (dim,)
    return wanted, weights, optional


def _common_prefix(keys: Iterable[str]) -> str:
    """The prefix that all keys share, such as "module."; empty when a key lacks it."""
    found = {key[: key.index("transformer_blocks.")] for key in keys if "transformer_blocks." in key}
    prefix = found.pop() if len(found) == 1 else ""
    return prefix if all(key.startswith(prefix) for key in keys) else ""


def _listed(names: Iterable[str], limit: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _refuse(source: str, **problems: list[str]) -> None:
    found = [f"{what}: {_listed(names)}" for what, names in problems.items() if names]
    if found:
        raise CheckpointError(
            f"The weights in {source!r} do not match a release over this base, and no part of them is loaded; "
            f"{'; '.join(found)}."
        )


# Files ----------------------------------------------------------------------------------------------------------


def release_source(source: str | Path, **options: Any) -> Path:
    """The authors' weights as a file or folder, downloaded where `source` is a name on the hub.

    options: those of `tagmoe.files.hub.local_folder`, whose errors are raised.
    """
    path = Path(source).expanduser()
    return path if path.is_file() else local_folder(path, allow_patterns=RELEASE_FILES, **options)


def base_folder(base: str | Path, **options: Any) -> Path:
    """The base pipeline as a folder; of a name on the hub everything but its transformer's weights is downloaded."""
    return local_folder(Path(base).expanduser(), allow_patterns=BASE_FILES, **options)


def read_release(source: Path) -> dict[str, Entry]:
    """Every tensor of a release: a safetensors file, or a folder that holds the weights itself or in transformer/.

    The files may have any name, with or without an index. Only headers are read. Raises MissingError when there is no
    such folder, CheckpointError for a damaged or missing file and for a pickle (.bin, .pt), which is never read.
    """
    if source.is_file():
        if source.suffix != ".safetensors":
            raise _only_a_pickle(source)
        return read_file(source)
    if not source.is_dir():
        raise MissingError(
            f"There is no folder {str(source)!r} with the authors' weights; download it with "
            "`hf download YUXU915/TAG-MoE --local-dir <folder>`."
        )
    places = (source, source / "transformer")
    for place in places:
        if (place / f"{STEM}.safetensors").is_file() or (place / f"{STEM}.safetensors.index.json").is_file():
            return read_entries(place)
    for place in places:
        if files := sorted(place.glob("*.safetensors")):
            return read_files(files)
    for place in places:
        if pickles := sorted(file for pattern in PICKLES for file in place.glob(pattern)):
            raise _only_a_pickle(pickles[0])
    raise CheckpointError(f"There is no *.safetensors in {str(source)!r} or its transformer/; download it again.")


def _only_a_pickle(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{str(file)!r} is no safetensors file and is refused: a pickle can run any code when it is read; "
        "give the same weights as safetensors."
    )


def is_release(source: Path) -> bool:
    """Whether `source` holds readable weights in the authors' layout."""
    try:
        tensors = read_release(source)
    except (CheckpointError, MissingError):
        return False
    prefix = _common_prefix(tensors)
    return any(ROUTER.fullmatch(key.removeprefix(prefix)) for key in tensors)


def read_base_config(base: Path) -> dict[str, Any]:
    """The settings of `DENSE_DEFAULTS` in transformer/config.json of a base pipeline folder.

    Raises MissingError when the folder is not there, CheckpointError when the file is missing, damaged or impossible.
    """
    if not base.is_dir():
        raise MissingError(
            f"There is no base folder {str(base)!r}; give a Qwen-Image pipeline, or download it with "
            "`hf download Qwen/Qwen-Image --local-dir <folder>`."
        )
    file = base / "transformer" / "config.json"
    config = {name: value for name, value in read_object(file).items() if name in DENSE_DEFAULTS}
    for name in COUNTS:
        value = config.get(name, 1)
        if (name, value) != ("out_channels", None) and (type(value) is not int or value < 1):
            raise CheckpointError(
                f"{str(file)!r} has {name} {value!r}; it must be a whole number of 1 or more: download it again."
            )
    return config
