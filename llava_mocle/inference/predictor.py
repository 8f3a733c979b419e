"""`Predictor`: image and text -> cluster -> answer. Evaluation, serving and the command line all go through it."""

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList

from llava_mocle.adapter.mixture import CLUSTER_WEIGHTS
from llava_mocle.adapter.options import LEARNED_ROUTERS
from llava_mocle.clustering.instruction import InstructionRule, instruction_text
from llava_mocle.data.conversation import Turn, marked_turns, place_images
from llava_mocle.data.encoder import Encoder
from llava_mocle.data.instruction_tokens import INSTRUCTION_IDS, InstructionTokens
from llava_mocle.data.template_names import template_name
from llava_mocle.errors import CheckpointError, DataError, RoutingError
from llava_mocle.inference.explanation import Explanation, explain_routing
from llava_mocle.inference.generation import (
    AnswerRepetition,
    TieRecorder,
    decode,
    find_stopping,
    generation_config,
)
from llava_mocle.inference.model_id import model_id
from llava_mocle.inference.prepared import Prepared, check_length, routing_tensors
from llava_mocle.inference.prompt_router import PromptRouter, dataset_id, dataset_names
from llava_mocle.inference.ranking import log_likelihoods
from llava_mocle.inference.request import ImageInput, Prediction, Ranking, Request, check_text
from llava_mocle.inference.weighting import NEAREST, Weighting
from llava_mocle.model.load import LoadedModel, load_model
from llava_mocle.model.placement import choose_placement
from llava_mocle.model.quantization import Quantization, stored_bits

_MOST_SYSTEMS = 64


class Predictor:
    """A loaded model that answers questions, each routed by the cluster of its text.

    Attributes:
        loaded: the model with everything that goes with it.
        path: the folder that was loaded.
        cluster_model: what routes; None for base and stage-1 folders.
        router: "cluster", "dataset", "token", "sentence" or "none", from the adapter; "none" without one.
        adapter: its configuration; None without one.
        prompt_router: what finds the clusters of requests.
        stopping: what ends an answer.
    """

    def __init__(self, loaded: LoadedModel, weighting: Weighting = NEAREST) -> None:
        self.path = loaded.path
        self.model = loaded.model.eval()
        self.family = loaded.family
        self.encoder = loaded.encoder()
        self.template = self.encoder.template
        self.tokenizer = loaded.tokenizer
        self.image_processor = loaded.image_processor
        self.cluster_model = loaded.cluster_model
        self.kind = loaded.kind
        self.loaded = loaded
        self.stopping = find_stopping(self.tokenizer, getattr(self.template, "end", ""))
        self._encoders: dict[str | None, Encoder] = {None: self.encoder}
        adapters = getattr(self.model, "peft_config", {})
        self.adapter: Any = adapters.get(getattr(self.model, "active_adapter", "default"))
        self.router = getattr(self.adapter, "router", "none")
        self._instructions: InstructionTokens | None = None
        if self.router == "sentence":
            turns = loaded.recipe.get("instruction_turns") or InstructionRule().turns
            self._instructions = InstructionTokens(self.tokenizer, InstructionRule(turns))
        weighting.check(self.adapter, self.cluster_model, self.path)
        self.prompt_router = PromptRouter(self.cluster_model, self.path, weighting)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        base: str | os.PathLike[str] | None = None,
        *,
        bits: int = 16,
        template: str | None = None,
        vision_tower: str | os.PathLike[str] | None = None,
        encoder: str | os.PathLike[str] | None = None,
        allow_other_base: bool = False,
        far_to_universal: bool = False,
        soft_assignment: float | None = None,
        universal_beyond: float | None = None,
    ) -> "Predictor":
        """Load a trained checkpoint, a stage-1 folder, a base folder or an original LLaVA folder.

        Args:
            device: default: the GPU if there is one.
            dtype: of the weights; default: bfloat16 on a GPU that has it, float32 elsewhere.
            bits: 4 or 8 stores the linears of the language model in so many bits, whatever the adapter was trained on.
            base: the base folder, if it is no longer where the checkpoint says.
            template: a prompt template other than the one that the model was trained with.
            vision_tower: the CLIP tower of an original LLaVA folder, if it is no longer where the config says.
            encoder: the sentence encoder of the cluster model, if it is no longer where the cluster model says.
            allow_other_base: go on, with a warning, on a base that is not the one that the checkpoint was trained on.
            far_to_universal, soft_assignment, universal_beyond: see `Weighting`.

        Raises:
            CheckpointError: the folder is not a model, or misses a part, or its base is another one.
            RoutingError, ClusterModelError: as `Weighting.check`.
            ConfigError: the device cannot be used, there is no such template, or bitsandbytes is not installed.
        """
        if template is not None:
            template = template_name(template)
        place, dtype = choose_placement(device, dtype)
        loaded = load_model(
            os.fspath(path),
            dtype=dtype,
            device=place,
            base=os.fspath(base) if base else None,
            template=template,
            vision_tower=os.fspath(vision_tower) if vision_tower else None,
            encoder=os.fspath(encoder) if encoder else None,
            allow_other_base=allow_other_base,
            quantization=Quantization(bits),
        )
        return cls(loaded, Weighting(far_to_universal, soft_assignment, universal_beyond))

    @cached_property
    def model_id(self) -> str:
        """Name and fingerprint of the model, as written into answer files."""
        return model_id(self.path, self.loaded.base_path, self.loaded.tower_path)

    @property
    def settings(self) -> str:
        """How the model was loaded, as far as it changes answers. Written into answer files beside every answer."""
        bits = stored_bits(self.model)
        quantized = f" bits={bits}" if bits < 16 else ""
        dtype, weighting = str(self.model.dtype).removeprefix("torch."), self.prompt_router.weighting.describe()
        return f"template={self.loaded.template} dtype={dtype}{quantized}{weighting}"

    @property
    def context_length(self) -> int | None:
        """How many tokens the model reads at most, those of images and of the answer included; None: not known."""
        limit: int | None = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return limit

    @property
    def sees_sizes(self) -> bool:
        """Whether the tokens of an image depend on its size."""
        return self.encoder.sees_sizes

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def predict(
        self,
        image: "ImageInput | Sequence[ImageInput] | None",
        prompt: str,
        *,
        max_new_tokens: int = 128,
        num_beams: int = 1,
        temperature: float = 0.0,
        top_p: float | None = None,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
        cluster_id: int | None = None,
        route_text: str | None = None,
        dataset: str | int | None = None,
    ) -> Prediction:
        """Answer one prompt about one image, several, or none. See `Request` and `predict_batch` for the arguments."""
        request = Request(prompt, image, cluster_id=cluster_id, route_text=route_text, dataset=dataset)
        return self.predict_batch(
            [request],
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            temperature=temperature,
            top_p=top_p,
            length_penalty=length_penalty,
            repetition_penalty=repetition_penalty,
        )[0]

    def predict_batch(
        self,
        requests: Sequence[Request],
        *,
        max_new_tokens: int = 128,
        num_beams: int = 1,
        temperature: float = 0.0,
        top_p: float | None = None,
        length_penalty: float = 1.0,
        repetition_penalty: float = 1.0,
    ) -> list[Prediction]:
        """Answer a batch of requests. It may mix requests with and without images, clusters, and lengths.

        Greedy answers in float32 equal, token for token, those of each request alone: a row that comes to a near tie
        is answered again by itself (see `TieRecorder`). With beams, a batch can still decide ties of about 1e-5; in
        half precision, ties of about 1e-2.

        Args:
            max_new_tokens: longest answer in tokens.
            temperature: 0 decodes greedily (or with beams); above, it samples.
            top_p: nucleus to sample from; None samples from the 50 likeliest tokens.
            length_penalty: with beams, the power of the length that a beam's log-probability is divided by: above 1
                prefers long answers, below 1 short ones.
            repetition_penalty: above 1, tokens that the answer holds already become less likely (`AnswerRepetition`).

        Raises:
            DataError: `<image>` marks and images differ in number, an image can't be read, or a prompt is too long.
            RoutingError: a `cluster_id` that the model does not have, or no dataset for a model routed by dataset.
        """
        if not requests:
            return []
        config = generation_config(
            self.tokenizer,
            self.stopping,
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            temperature=temperature,
            top_p=top_p,
            length_penalty=length_penalty,
        )
        predictions, tied = self._generate(requests, config, repetition_penalty)
        for row in tied:
            predictions[row] = self._generate([requests[row]], config, repetition_penalty)[0][0]
        return predictions

    def _generate(
        self, requests: Sequence[Request], config: GenerationConfig, repetition_penalty: float
    ) -> tuple[list[Prediction], list[int]]:
        """The answers, and the rows whose answer the batch may have changed."""
        prepared = self.prepare(requests)
        inputs = self.batch(prepared, config.pad_token_id)
        prompt_length = inputs["input_ids"].shape[1]
        ties = TieRecorder([*self.stopping.token_ids, config.pad_token_id])
        exact = (
            len(requests) > 1 and config.num_beams == 1 and not config.do_sample and self.model.dtype == torch.float32
        )
        processors = [] if repetition_penalty == 1 else [AnswerRepetition(repetition_penalty)]
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                generation_config=config,
                tokenizer=self.tokenizer,
                logits_processor=LogitsProcessorList([*processors, ties] if exact else processors),
            )
        predictions = []
        for row, new_tokens in enumerate(self.family.new_tokens(output, prompt_length).cpu()):
            text, count = decode(self.tokenizer, new_tokens, self.stopping)
            predictions.append(Prediction(text, prepared[row].cluster_id, prepared[row].cluster_distance, count))
        return predictions, ties.rows

    def prepare(self, requests: Sequence[Request]) -> list[Prepared]:
        """Requests as the model takes them: routed, tokenized, with their pixels. The weights are not needed for it.

        Raises:
            DataError, RoutingError: as `predict_batch`.
            ConfigError: the template has no place for a system prompt.
        """
        clusters, distances = self._route(requests)
        routings = self._routings(requests, clusters)
        return [
            Prepared(self._sample(request), routing, cluster, distance)
            for request, routing, cluster, distance in zip(requests, routings, clusters, distances, strict=True)
        ]

    def batch(self, prepared: Sequence[Prepared], pad_token_id: int) -> dict[str, Tensor]:
        """What the model's `generate` takes of requests together, on its device, padded on the left."""
        inputs = self.encoder.collator(pad_token_id=pad_token_id, left=True)([one.sample for one in prepared])
        return self._on_device(inputs) | routing_tensors([one.routing for one in prepared], self.device)

    def rank(self, request: Request, candidates: Sequence[str]) -> Ranking:
        """Score candidate answers of one question by their log-likelihood.

        It is summed over the tokens that training would supervise: the answer and its end of turn. It is not divided
        by their number. Image and question are computed once.

        Raises:
            DataError: no candidates, an empty one, or as `predict_batch`.
            RoutingError: as `predict_batch`.
        """
        if not candidates or not all(candidate.strip() for candidate in candidates):
            raise DataError(f"prompt {request.prompt[:60]!r}: candidates are {list(candidates)!r}; expected texts.")
        for candidate in candidates:
            check_text("candidate", candidate)
        clusters, distances = self._route([request])
        asked = self._encoder_of(request).candidates(self._turns(request), request.image_list, candidates)
        check_length(request, max(len(row["input_ids"]) for row in asked.rows), self.context_length)
        inputs = self._on_device(asked.inputs)
        routing = self._routing_inputs([request], clusters)
        scores = log_likelihoods(self.family, self.model, asked.rows, inputs, routing)
        return Ranking(tuple(scores), clusters[0], distances[0])

    def routes(self, requests: Sequence[Request]) -> list[int | None]:
        """The cluster, or the dataset's index, that chooses each request's experts; None where nothing is chosen.

        Raises:
            RoutingError: as `predict_batch`.
        """
        if self.router not in ("cluster", "dataset"):
            return [None] * len(requests)
        clusters, _ = self.prompt_router.route(requests)
        if self.router == "cluster":
            return clusters
        return list(self._routing_inputs(requests, clusters)["dataset_ids"].tolist())

    def length(self, request: Request, candidates: Sequence[str] = ()) -> int:
        """How many tokens a request takes, those of its images included; with candidates, with the longest of them.

        Raises:
            DataError: `<image>` marks and images differ in number.
        """
        encoder, turns, images = self._encoder_of(request), self._turns(request), request.image_list
        if candidates:
            return encoder.candidate_length(turns, images, candidates)
        return encoder.prompt_length(turns, images)

    def explain(self, prompt: str, *, route_text: str | None = None, cluster_id: int | None = None) -> Explanation:
        """Which cluster a prompt takes, what that cluster is about, and what its gates do.

        Raises:
            CheckpointError: the model has no cluster model.
        """
        if self.cluster_model is None:
            remedy = "ask for the answer alone" if self.kind == "adapter" else "give a checkpoint of stage 2"
            raise CheckpointError(
                f"{self.path}: has no cluster model ({self.kind} folder), so nothing is routed by cluster; {remedy}."
            )
        request = Request(prompt, route_text=route_text, cluster_id=cluster_id)
        (cluster,), (distance,) = self._route([request])
        assert cluster is not None
        mixtures = self.prompt_router.mixtures([request])
        ids, weights = ([[cluster]], [[1.0]]) if mixtures is None else mixtures
        return explain_routing(
            self.model,
            self.adapter if self.router == "cluster" else None,
            self.cluster_model,
            route_text=self.prompt_router.text_of(request),
            cluster=cluster,
            distance=distance,
            mixture=list(zip(ids[0], weights[0], strict=True)),
        )

    def routing_text(self, row: Mapping[str, Any]) -> str | None:
        """The text that training would route this row by; None for a model that no text routes or clusters."""
        if self._instructions is not None:
            return instruction_text(row, self._instructions.rule)
        return None if self.cluster_model is None else instruction_text(row, self.cluster_model.rule)

    def _route(self, requests: Sequence[Request]) -> tuple[list[int | None], list[float | None]]:
        """Cluster and distance of each request, as `PromptRouter.route`."""
        if self.router in LEARNED_ROUTERS:
            for request in requests:
                if request.cluster_id is not None:
                    raise RoutingError(
                        f"cluster_id is {request.cluster_id}, but {self.path} has router {self.router!r}, which looks "
                        "at no cluster: leave it out."
                    )
        return self.prompt_router.route(requests)

    def _routing_inputs(self, requests: Sequence[Request], clusters: Sequence[int | None]) -> dict[str, Tensor]:
        """What tells the adapter each request's experts, on the model's device."""
        return routing_tensors(self._routings(requests, clusters), self.device)

    def _routings(self, requests: Sequence[Request], clusters: Sequence[int | None]) -> list[dict[str, Any]]:
        """The same, of each request by itself: the names of the adapter's inputs and its values."""
        inputs: dict[str, Sequence[Any]] = {}
        if self.router == "cluster":
            inputs["cluster_ids"] = clusters
            if (mixtures := self.prompt_router.mixtures(requests)) is not None:
                inputs = dict(zip(("cluster_ids", CLUSTER_WEIGHTS), mixtures, strict=True))
        elif self.router == "dataset":
            names = dataset_names(self.loaded.recipe)
            inputs["dataset_ids"] = [dataset_id(request, names, self.path) for request in requests]
        if self._instructions is not None:
            inputs[INSTRUCTION_IDS] = [self._instructions.of_prompt(request.routing_texts) for request in requests]
        return [{name: values[row] for name, values in inputs.items()} for row in range(len(requests))]

    def _turns(self, request: Request) -> list[Turn]:
        """The conversation, with one `<image>` mark for each image."""
        turns = marked_turns(request.turns, len(request.image_list))
        return [Turn(turn.role, place_images(turn.text)) for turn in turns]

    def _encoder_of(self, request: Request) -> Encoder:
        """The encoder, under the request's system prompt."""
        if request.system not in self._encoders:
            if len(self._encoders) > _MOST_SYSTEMS:
                self._encoders = {None: self.encoder}
            self._encoders[request.system] = self.loaded.encoder(system=request.system)
        return self._encoders[request.system]

    def _sample(self, request: Request) -> dict[str, Any]:
        sample = self._encoder_of(request).prompt(self._turns(request), request.image_list)
        check_length(request, len(sample["input_ids"]), self.context_length)
        return sample

    def _on_device(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs where the model is; pixels in its dtype."""
        dtypes = {name: self.model.dtype for name, value in inputs.items() if value.is_floating_point()}
        return {name: value.to(self.device, dtypes.get(name)) for name, value in inputs.items()}
