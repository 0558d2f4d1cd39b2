"""`spec.strategy`: how the work is spread over ranks. What makes no sense together is refused here, with the reason."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from disttrain.api.schema import ApiModel, Rule, only, rules


class Pipeline(ApiModel):
    """Split the model's layers over ranks."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("!has(self.split) || size(self.split) == self.stages * (self.schedule in ['interleaved1f1b', 'zeroBubble'] ? 2 : 1) - 1", "pipeline.split names the layer at each cut: stages - 1 of them, or 2 × stages - 1 with schedule interleaved1f1b or zeroBubble, which give each rank two runs of layers"),
            Rule("!has(self.microbatches) || self.schedule != '1f1b' || self.microbatches >= self.stages", "schedule 1f1b has a microbatch on every stage at once: set pipeline.microbatches to pipeline.stages or more, or leave it out"),
            Rule("!has(self.microbatches) || self.schedule != 'interleaved1f1b' || self.microbatches < self.stages || self.microbatches % (self.microbatches / self.stages) == 0", "schedule interleaved1f1b goes in microbatches / stages rounds (rounded down), and each has equally many microbatches: make pipeline.microbatches a multiple of pipeline.stages, or leave it out"),
        )
    )  # fmt: skip

    stages: int = Field(ge=1, le=1024, description="Number of stages.")
    schedule: Literal["gpipe", "1f1b", "interleaved1f1b", "zeroBubble"] = Field(
        "1f1b", description="Order of forward and backward passes."
    )
    microbatches: int | None = Field(None, ge=1, le=1024, description="Microbatches per step; four per stage if unset.")
    split: list[Annotated[str, Field(max_length=256)]] | None = Field(
        None,
        max_length=2047,
        description="Names of the layers that begin a stage, all but the first (two runs of layers a stage with interleaved1f1b and zeroBubble); "
        "if unset, the model is cut so that the dearest stage is as cheap as can be, by measured time.",
    )


_SPLIT = "(has(self.parallelism) && ((has(self.parallelism.tensor) && self.parallelism.tensor > 1) || (has(self.parallelism.pipeline) && self.parallelism.pipeline.stages > 1) || (has(self.parallelism.shard) && self.parallelism.shard != 'none')))"
"""In CEL: no rank has the whole model."""


class Parallelism(ApiModel):
    """Degrees of the mesh. data × tensor × pipeline.stages = world size."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("self.shard == 'none' || (self.tensor == 1 && (!has(self.pipeline) || self.pipeline.stages == 1))", "parallelism.shard cuts the parameters of whole layers over replicas: together with tensor or pipeline, which have cut the model already, it is not built; leave one of them out"),
            Rule("!has(self.sequence) || !self.sequence || (has(self.tensor) && self.tensor > 1)", "parallelism.sequence divides sequences over the ranks that share layers: set tensor to 2 or more"),
        )
    )  # fmt: skip

    data: int | Literal["auto"] = Field(
        "auto", description="Number of replicas; auto: what the other axes leave.", json_schema_extra=only("auto")
    )
    tensor: int = Field(1, ge=1, le=1024, description="Ranks that share each layer.")
    sequence: bool = Field(
        False,
        description="With tensor: between the layers that are cut, each of those ranks has its part of every sequence (sequence parallel): less memory.",
    )
    pipeline: Pipeline | None = Field(None, description="Split layers into stages.")
    shard: Literal["none", "full", "hybrid"] = Field(
        "none",
        description="Shard parameters, gradients and optimizer state over replicas (FSDP): full over all ranks, hybrid over those of a worker.",
    )


LOCAL_METHODS = ("modelAveraging", "diLoCo", "roundRobin", "asyncRing", "gossip")
"""Replicas train by themselves and exchange parameters, not gradients."""


class Synchronization(ApiModel):
    """How replicas stay in step."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(f"!has(self.everySteps) || self.method in {[*LOCAL_METHODS]}", "everySteps is for methods that exchange parameters (modelAveraging, diLoCo, roundRobin, asyncRing, gossip): allReduce and parameterServer exchange gradients in every step"),
            Rule("!has(self.maxStaleness) || self.method in ['parameterServer', 'asyncRing']", "maxStaleness is for parameterServer and asyncRing: the other methods never use an old value"),
            Rule("!has(self.servers) || self.method == 'parameterServer'", "servers is for parameterServer"),
            Rule("!has(self.synchronousSteps) || self.method == 'modelAveraging'", "synchronousSteps is for modelAveraging: the steps before replicas begin to train alone"),
            Rule("!has(self.meetEverySteps) || self.method in ['asyncRing', 'gossip']", "meetEverySteps is for asyncRing and gossip: with the other methods all replicas meet at every exchange"),
            Rule("!has(self.fragments) || self.fragments <= (has(self.everySteps) ? self.everySteps : 50)", "fragments may not be more than everySteps (50 if unset): each of them is exchanged after a step of its own"),
            Rule("((!has(self.staticGraph) || !self.staticGraph) && !has(self.bucketMegabytes)) || self.method == 'allReduce'", "staticGraph and bucketMegabytes are for allReduce: they say how gradients go round while the backward pass still computes, and the other methods send what they send behind it"),
            Rule("(!has(self.outerLearningRate) && !has(self.outerMomentum) && !has(self.fragments)) || self.method == 'diLoCo'", "outerLearningRate, outerMomentum and fragments are for diLoCo"),
        )
    )  # fmt: skip

    method: Literal["allReduce", "parameterServer", "modelAveraging", "diLoCo", "asyncRing", "roundRobin", "gossip"] = (
        Field(
            "allReduce",
            description="allReduce: average gradients in every step. parameterServer: ranks that own parts of the model average, update, send back. "
            "modelAveraging: train alone, average the models every everySteps. diLoCo: the same with an outer Nesterov step. "
            "roundRobin: one rank after the other brings the common model up to date. asyncRing: parameters travel round a ring while training goes on. "
            "gossip: random pairs average.",
        )
    )
    servers: int | None = Field(
        None, ge=1, le=64, description="parameterServer: over how many ranks the state is spread; all, if unset.",
    )  # fmt: skip
    every_steps: int | None = Field(
        None, ge=1, le=100_000,
        description="Methods that exchange parameters: after this many steps. If unset: modelAveraging 8, diLoCo 50, roundRobin 4, asyncRing and gossip 1.",
    )  # fmt: skip
    synchronous_steps: int | None = Field(
        None, ge=0, description="modelAveraging: average after every one of the first steps (post-local SGD).",
    )  # fmt: skip
    meet_every_steps: int | None = Field(
        None, ge=1, le=100_000,
        description="asyncRing and gossip: all replicas come together after this many steps; only then is training saved, evaluated, stopped. 50 if unset.",
    )  # fmt: skip
    max_staleness: int | None = Field(
        None, ge=0, le=1024, description="How many steps an update may be on its way; 0 is synchronous. parameterServer: 0 if unset, asyncRing: 4.",
    )  # fmt: skip
    outer_learning_rate: float | None = Field(
        None, gt=0, le=10, description="diLoCo: step size of the outer optimizer; 0.7 if unset.",
    )  # fmt: skip
    outer_momentum: float | None = Field(
        None, ge=0, lt=1, description="diLoCo: Nesterov momentum of the outer optimizer; 0.9 if unset.",
    )  # fmt: skip
    fragments: int | None = Field(
        None, ge=1, le=1024, description="diLoCo: parts of the model that are exchanged one after the other (streaming).",
    )  # fmt: skip
    static_graph: bool = Field(
        False,
        description="allReduce: every step uses the same parameters in the same order, which spares DDP to find out (its static_graph). "
        "A promise of the model: where it does not hold, steps go wrong or stop with an error.",
    )
    bucket_megabytes: int | None = Field(
        None, ge=1, le=65_536,
        description="allReduce: gradients that go round together are at most so large (DDP's bucket_cap_mb); 25 if unset, the first ones 1. "
        "More: fewer messages, which overlap less with the backward pass.",
    )  # fmt: skip


class Compression(ApiModel):
    """Send fewer bytes."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("!has(self.rank) || self.method == 'powerSGD'", "compression.rank is for powerSGD"),
            Rule("!has(self.ratio) || self.method == 'topK'", "compression.ratio is for topK"),
        )
    )

    method: Literal["none", "fp16", "bf16", "powerSGD", "topK", "sign"] = Field(
        "none", description="How gradients are compressed."
    )
    error_feedback: bool = Field(True, description="Add what compression lost to the next step's gradient.")
    rank: int | None = Field(None, ge=1, le=1024, description="powerSGD: rank of the approximation; 1 if unset.")
    ratio: float | None = Field(None, gt=0, le=1, description="topK: share of values that is sent; 0.01 if unset.")


class Privacy(ApiModel):
    """Differentially private training: of single samples (DP-SGD), or of all that a worker has (as DP-FedAvg)."""

    unit: Literal["sample", "worker"] = Field(
        "sample",
        description="Who can hide. sample: any one sample; gradients are clipped and get noise in every step. "
        "worker: all samples of one worker, which trains on a part of the data of its own; what replicas exchange is clipped and gets noise.",
    )
    noise_multiplier: float = Field(
        gt=0, le=1000, description="Standard deviation of the noise over the clipping norm."
    )
    max_grad_norm: float = Field(
        gt=0,
        description="Each sample's gradient, or what a worker has changed since the last exchange (its outer gradient), is clipped to this norm.",
    )
    delta: float = Field(gt=0, lt=1, description="Probability of failure of the guarantee; well below 1 / samples.")
    target_epsilon: float | None = Field(
        None,
        gt=0,
        description="End training, well, before more than this is spent. What is spent is status.progress.metrics.epsilon.",
    )


_BUCKETS = "(has(self.synchronization) && ((has(self.synchronization.staticGraph) && self.synchronization.staticGraph) || has(self.synchronization.bucketMegabytes)))"
_METHOD = "(has(self.synchronization) && has(self.synchronization.method) ? self.synchronization.method : 'allReduce')"
_BY_SAMPLE = "(has(self.privacy) && (!has(self.privacy.unit) || self.privacy.unit == 'sample'))"
_BY_WORKER = "(has(self.privacy) && has(self.privacy.unit) && self.privacy.unit == 'worker')"

STRATEGY_RULES = (
    Rule(f"!{_SPLIT} || !has(self.synchronization) || self.synchronization.method == 'allReduce'", "a model that is split (parallelism.tensor, pipeline, shard) exchanges gradients in every step; the other methods need the whole model on every rank, as replicas of several ranks are not built for them: leave either synchronization.method or parallelism out"),
    Rule(f"!{_BUCKETS} || !{_SPLIT}", "synchronization.staticGraph and bucketMegabytes are for gradients of a whole model on every rank: with parallelism.tensor, pipeline or shard leave them out"),
    Rule(f"!{_BUCKETS} || !has(self.privacy)", "synchronization.staticGraph and bucketMegabytes are for gradients that go round while the backward pass still computes, and with privacy they wait for their noise: leave them out"),
    Rule("!has(self.synchronization) || !has(self.synchronization.bucketMegabytes) || !has(self.compression) || self.compression.method != 'powerSGD'", "compression powerSGD waits for all gradients and sends two messages a step: synchronization.bucketMegabytes would only make more of them, leave it out"),
    Rule(f"!{_BY_SAMPLE} || {_METHOD} == 'allReduce'", "privacy of single samples (privacy.unit sample) is for synchronization.method allReduce, and not built for the others: with modelAveraging and diLoCo, privacy.unit worker adds noise to what is exchanged"),
    Rule(f"!{_BY_WORKER} || !({_METHOD} in ['allReduce', 'parameterServer'])", "privacy.unit worker adds noise to what workers exchange after steps of their own: choose synchronization.method modelAveraging or diLoCo, or privacy.unit sample"),
    Rule(f"!{_BY_WORKER} || {_METHOD} != 'gossip'", "privacy.unit worker and gossip exclude each other: pairs mix their models before any noise is added, so what one worker learnt changes what all others learn, and clipping bounds none of it"),
    Rule(f"!{_BY_WORKER} || {_METHOD} != 'asyncRing'", "privacy.unit worker and asyncRing exclude each other: the clock decides what goes into a round, so a round that is run again after a failure would be another one with the same noise, and the two together would show what the noise hides"),
    Rule(f"!{_BY_WORKER} || {_METHOD} != 'roundRobin'", "privacy.unit worker and roundRobin exclude each other: a checkpoint holds what each worker has learnt since its last turn, and no noise was added to that"),
    Rule(f"!{_BY_WORKER} || !has(self.synchronization) || !has(self.synchronization.fragments) || self.synchronization.fragments == 1", "privacy.unit worker needs the whole model exchanged at once: with synchronization.fragments a checkpoint holds what each worker has learnt alone, and no noise was added to that; leave fragments out"),
    Rule("!has(self.privacy) || !has(self.compression) || self.compression.method == 'none'", "privacy with compression is not built: noise hardly compresses, and a residual would hold what had no noise yet; leave compression out"),
    Rule(f"!has(self.privacy) || !{_SPLIT}", "privacy clips the gradient of each sample over the whole model, and norms of samples over parts of a model are not built, so every rank must have all of it: leave parallelism out"),
    Rule(f"!{_BY_SAMPLE} || !has(self.precision) || self.precision == 'fp32'", "privacy of single samples clips and adds noise in fp32; with passes of half the width it is not built: leave precision out"),
    Rule(f"!{_BY_WORKER} || !has(self.precision) || self.precision != 'fp16'", "the scale of fp16 follows from the data and has no noise: with privacy.unit worker use fp32 or bf16"),
    Rule(f"!{_BY_SAMPLE} || !has(self.activationCheckpointing) || !self.activationCheckpointing", "privacy of single samples with activationCheckpointing is not built: layers that run twice would tell the gradients of their samples twice; use accumulate for less memory"),
    Rule(f"!{_BY_SAMPLE} || !has(self.maxGradNorm)", "privacy.maxGradNorm clips the gradient of each sample: leave strategy.maxGradNorm out"),
    Rule("!has(self.compression) || self.compression.method == 'none' || !has(self.synchronization) || self.synchronization.method == 'allReduce'", "compression is for gradients that are all-reduced; for what the other synchronization methods exchange it is not built: leave it out"),
    Rule(f"!has(self.compression) || self.compression.method == 'none' || !{_SPLIT}", "compression is for ranks that each have the whole model; for the gradients of a split one it is not built: with parallelism.tensor, pipeline or shard leave it out"),
    Rule("!has(self.precision) || self.precision != 'fp16' || !has(self.synchronization) || self.synchronization.method != 'parameterServer'", "precision fp16 scales the loss until gradients overflow, and no parameter server sees all of them: use bf16 with parameterServer, as servers that agree on it are not built"),
    Rule("!has(self.parallelism) || !has(self.parallelism.pipeline) || self.parallelism.pipeline.stages == 1 || !has(self.accumulate) || self.accumulate == 1", "a pipeline accumulates over its microbatches: set pipeline.microbatches and leave accumulate out"),
    Rule("!has(self.activationCheckpointing) || !self.activationCheckpointing || !has(self.parallelism) || !has(self.parallelism.pipeline) || self.parallelism.pipeline.schedule != 'zeroBubble'", "the zeroBubble schedule runs each backward pass in two halves, and both would need the activations; to compute them again for that is not built: with activationCheckpointing choose another schedule"),
)  # fmt: skip


class Strategy(ApiModel):
    """How the model and the work are spread, and how replicas stay in step."""

    model_config = ConfigDict(json_schema_extra=rules(*STRATEGY_RULES))

    parallelism: Parallelism | None = Field(None, description="Degrees of the mesh.")
    synchronization: Synchronization | None = Field(None, description="How replicas stay in step.")
    compression: Compression | None = Field(None, description="Send fewer bytes.")
    privacy: Privacy | None = Field(None, description="Differentially private training.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Of forward and backward passes (autocast); fp16 scales the loss. Parameters stay fp32."
    )
    accumulate: int = Field(
        1,
        ge=1,
        le=1024,
        description="Cut each rank's batch into so many parts, one after the other: less memory, the same step.",
    )
    max_grad_norm: float | None = Field(None, gt=0, description="Clip the gradient of the whole model to this norm.")
    activation_checkpointing: bool = Field(
        False,
        description="Keep only what goes into each block of layers, and compute the rest again in the backward pass: less memory, about a third more work.",
    )
