"""What every metric that looks through a trained network has: a backbone, open choices, batches, and what it rests on.

Pictures and texts go through the backbone in batches of one fixed size: the last is filled up. So a value is the same
to the bit, whatever was scored with it, and after whatever stop (on a CPU with a fixed number of threads).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from tagmoe.config.part import Part
from tagmoe.errors import CheckpointError, MissingError, UsageError
from tagmoe.evaluate.answers.answer import RAISED, reason_raised
from tagmoe.evaluate.answers.weights import digest_of_files, digest_of_weights
from tagmoe.evaluate.benchmarks.cases import digest_of
from tagmoe.evaluate.metrics.metric import Measure, Pair, Value, lacking
from tagmoe.files.hub import local_folder
from tagmoe.files.json_files import read_object
from tagmoe.sentences import cut, reason_of

Profile = Literal["faithful", "official"]
"""faithful: as ICE-Bench's evaluators, which the paper's columns are named after. official: as the benchmark's own."""
CACHED = 4096
"""Features of sources, references and texts that are kept: each editor is scored on the same ones."""


AS_FAITHFUL: Mapping[str, Mapping[str, str]] = {"ice-bench": {}}
"""`official` for ICE-Bench, whose evaluators `faithful` follows."""


class Choices(Part):
    """What the paper leaves open about a metric, each with the default of the profile `faithful`."""


@dataclass(frozen=True)
class Backbone:
    """The folder of a trained network. name: the repository, or the folder's name. revision: of the hub.
    digest: SHA-256 of its files."""

    name: str
    folder: Path
    digest: str
    revision: str | None = None

    @classmethod
    def find(cls, source: str, files: Sequence[str] = ()) -> Backbone:
        """A folder, or a repository of the hub as owner/name or owner/name@revision, which is downloaded where needed.

        files: that a folder must hold, as paths in it; then there is nothing to download, and the digest is theirs.
        Raises MissingError where there is none.
        """
        if files:
            folder = Path(source)
            missing = [name for name in files if not (folder / name).is_file()]
            if missing:
                raise MissingError(
                    f"The folder {source!r} has no file {missing[0]!r}; give one with {', '.join(files)}."
                )
            return cls(folder.resolve().name, folder, digest_of_files({name: folder / name for name in files}))
        name, _, revision = source.partition("@")
        if Path(source).is_dir():
            folder, name, revision = Path(source), Path(source).resolve().name, ""
        else:
            folder = local_folder(name, **({"revision": revision} if revision else {}))
        return cls(name, folder, digest_of_weights(folder), revision or None)

    def load(self, kind: Any, model_types: Sequence[str], **options: Any) -> Any:
        """The network, of a class of transformers, without gradients. model_types: those of its config that fit.

        Raises CheckpointError for another architecture, for weights that are no safetensors, and for a missing tensor.
        """
        found = read_object(self.folder / "config.json").get("model_type")
        if found not in model_types:
            raise CheckpointError(
                f"The weights {self.name!r} are of the architecture {cut(str(found))!r}; this metric needs "
                f"{' or '.join(model_types)}."
            )
        if not any(self.folder.glob("*.safetensors")):
            raise CheckpointError(
                f"The weights {self.name!r} hold no safetensors; give a revision that has them, or convert the files."
            )
        try:
            model, report = kind.from_pretrained(
                self.folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options
            )
        except Exception as error:
            # A damaged file makes each library raise its own.
            raise CheckpointError(f"The weights {self.name!r} cannot be loaded ({reason_of(error)}).") from None
        for fault in ("missing_keys", "mismatched_keys"):
            if report.get(fault):
                first = sorted(map(str, report[fault]))[0]
                raise CheckpointError(f"The weights {self.name!r} have no tensor {first!r} of the right shape.")
        return model.eval().requires_grad_(False)

    def image_processor(self) -> Any:
        """The preparation of pictures that the folder describes, by pillow. Raises CheckpointError without one."""
        from transformers import AutoImageProcessor

        try:
            return AutoImageProcessor.from_pretrained(self.folder, backend="pil", local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"The weights {self.name!r} do not say how pictures are prepared ({reason_of(error)})."
            ) from None

    def facts(self) -> dict[str, Any]:
        """Name, revision and digest as plain data."""
        return {"name": self.name, "revision": self.revision, "digest": self.digest}


@dataclass(frozen=True)
class Input:
    """Something that goes through the backbone. kind: which of the metric's encoders. content: what that takes.
    key: of a picture or text that other cases may have too; its features are kept."""

    kind: str
    content: Any
    key: str | None = None


class Learned(ABC):
    """A metric of a trained network. The network is loaded when the first case is scored."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    measures: ClassVar[tuple[Measure, ...]]
    choices: ClassVar[type[Choices]] = Choices
    official: ClassVar[Mapping[str, Mapping[str, str]]] = AS_FAITHFUL
    """Benchmark -> the choices of its own protocol, where it has one for this metric."""
    published: ClassVar[str]
    """The repository of the backbone that the paper's columns rest on."""
    licence: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    """Files that are read from a folder that is no repository of transformers. Nothing of it is downloaded."""
    is_batched: ClassVar[bool] = True
    """Whether `encode` takes full batches. A library that takes one picture after the other needs none."""
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    """Libraries whose versions stand beside the values."""

    def __init__(
        self,
        backbone: Backbone,
        chosen: Choices,
        *,
        profile: Profile = "faithful",
        device: str = "cpu",
        batch: int = 16,
    ) -> None:
        self.backbone, self.chosen, self.profile = backbone, chosen, profile
        self.device, self.batch = device, batch
        self._network: Any = None
        self._kept: OrderedDict[tuple[str, str], Any] = OrderedDict()

    @cached_property
    def basis(self) -> dict[str, Any]:
        """All that the values depend on, but for versions of libraries."""
        return {
            "metric": self.name,
            "version": self.version,
            "profile": self.profile,
            "choices": self.chosen.model_dump(),
            "backbone": self.backbone.facts(),
        }

    @cached_property
    def key(self) -> str:
        """A digest of the basis, kept with each value. The name and the revision of the weights are not part of it."""
        return digest_of({**self.basis, "backbone": self.backbone.digest})[:16]

    def about(self) -> dict[str, Any]:
        """The basis, and what hardly changes a value: versions of libraries, device and batch."""
        return {**self.basis, "versions": self.versions(), "device": self.device, "batch": self.batch}

    def versions(self) -> dict[str, str]:
        """Versions of the libraries."""
        return {name: metadata.version(name) for name in self.packages}

    @abstractmethod
    def read(self) -> Any:
        """Read the network from its folder, and what prepares its inputs. Raises CheckpointError."""

    def load(self) -> Any:
        """What `read` gives, read once."""
        if self._network is None:
            self._network = self.read()
        return self._network

    @abstractmethod
    def inputs(self, pair: Pair) -> Mapping[str, Input]:
        """What of a pair goes through the backbone, by names of its own. It may raise for unusable pictures."""

    @abstractmethod
    def encode(self, kind: str, contents: Sequence[Any]) -> Sequence[Any]:
        """The features of `batch` contents of one kind; of any number where `is_batched` is false."""

    @abstractmethod
    def values(self, pair: Pair, features: Mapping[str, Any]) -> Mapping[str, Value]:
        """The values of a pair. features: of each of its inputs."""

    def __call__(self, pair: Pair) -> Mapping[str, Value]:
        """The values of one pair."""
        return self.many([pair])[0]

    def many(self, pairs: Sequence[Pair]) -> list[Mapping[str, Value]]:
        """The values of some pairs, in their order. What fails for one pair fails for it alone.

        Raises CheckpointError for weights that cannot be used.
        """
        if pairs:
            self.load()
        found: dict[int, Mapping[str, Value]] = {}
        inputs: dict[int, Mapping[str, Input]] = {}
        for place, pair in enumerate(pairs):
            try:
                inputs[place] = self.inputs(pair)
            except RAISED as error:
                found[place] = lacking(self.measures, "failed", reason_raised(error))
        features = self._features([one for own in inputs.values() for one in own.values()])
        for place, own in inputs.items():
            try:
                found[place] = self.values(pairs[place], {name: features[id(one)] for name, one in own.items()})
            except RAISED as error:
                found[place] = lacking(self.measures, "failed", reason_raised(error))
        return [found[place] for place in range(len(pairs))]

    def _features(self, inputs: Sequence[Input]) -> dict[int, Any]:
        """The features of each input, by its id."""
        found: dict[int, Any] = {}
        waiting: dict[str, dict[Any, list[Input]]] = {}
        for one in inputs:
            known = self._kept.get((one.kind, one.key)) if one.key is not None else None
            if known is not None:
                found[id(one)] = known
            else:
                waiting.setdefault(one.kind, {}).setdefault(one.key or id(one), []).append(one)
        for kind, asked in waiting.items():
            features = self._in_full_batches(kind, [same[0].content for same in asked.values()])
            for same, own in zip(asked.values(), features, strict=True):
                found |= dict.fromkeys(map(id, same), own)
                if same[0].key is not None:
                    self._kept[kind, same[0].key] = own
        while len(self._kept) > CACHED:
            self._kept.popitem(last=False)
        return found

    def _in_full_batches(self, kind: str, contents: Sequence[Any]) -> list[Any]:
        if not self.is_batched:
            return list(self.encode(kind, contents))
        found: list[Any] = []
        for start in range(0, len(contents), self.batch):
            part = list(contents[start : start + self.batch])
            full = part + [part[-1]] * (self.batch - len(part))
            found += list(self.encode(kind, full))[: len(part)]
        return found


def check_device(name: str) -> None:
    """Raises UsageError for a device of torch that is unknown or not here."""
    import torch

    try:
        torch.empty(0, device=name)
    except Exception as error:
        raise UsageError(f"The device {cut(name)!r} cannot be used ({reason_of(error)}); give cpu or cuda.") from None
