"""The parts of a worker pod that a job may choose. What is not here cannot be asked for: no host paths, no privileges."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from disttrain.api.schema import ApiModel, DnsLabel, DnsName, EnvName, Quantity, Rule, rules

LabelValue = Annotated[str, Field(max_length=63)]
AnnotationValue = Annotated[str, Field(max_length=8192)]


class Resources(ApiModel):
    """Compute of one worker, as in a container: `limits: {cpu: 4, memory: 16Gi, nvidia.com/gpu: 1}`."""

    requests: dict[str, Quantity] | None = Field(None, max_length=16, description="What is reserved on the node.")
    limits: dict[str, Quantity] | None = Field(
        None, max_length=16, description="What may not be exceeded; GPUs are asked for here."
    )


class KeyRef(ApiModel):
    """One key of a ConfigMap or Secret of this namespace."""

    name: DnsName = Field(description="Name of the object.")
    key: Annotated[str, Field(max_length=253)] = Field(description="The key.")
    optional: bool | None = Field(None, description="Start also when it does not exist.")


class FieldRef(ApiModel):
    """A field of the pod."""

    field_path: Annotated[str, Field(max_length=253)] = Field(description="Such as metadata.name or status.podIP.")


class EnvSource(ApiModel):
    """Where a value comes from: exactly one."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule(
                "[has(self.configMapKeyRef), has(self.secretKeyRef), has(self.fieldRef)].filter(x, x).size() == 1",
                "set exactly one source",
            )
        )
    )
    config_map_key_ref: KeyRef | None = Field(None, description="A key of a ConfigMap.")
    secret_key_ref: KeyRef | None = Field(None, description="A key of a Secret.")
    field_ref: FieldRef | None = Field(None, description="A field of the pod.")


class EnvVar(ApiModel):
    """One environment variable."""

    model_config = ConfigDict(
        json_schema_extra=rules(Rule("!(has(self.value) && has(self.valueFrom))", "set value or valueFrom, not both"))
    )
    name: EnvName = Field(description="Its name.")
    value: Annotated[str, Field(max_length=32768)] | None = Field(None, description="Its value.")
    value_from: EnvSource | None = Field(None, description="Where its value comes from.")


class ClaimSource(ApiModel):
    """An existing PersistentVolumeClaim."""

    claim_name: DnsName = Field(description="Name of the claim.")


class ConfigMapSource(ApiModel):
    """A ConfigMap as files."""

    name: DnsName = Field(description="Name of the ConfigMap.")


class SecretSource(ApiModel):
    """A Secret as files."""

    secret_name: DnsName = Field(description="Name of the Secret.")


class EmptyDirSource(ApiModel):
    """Scratch space that goes with the pod."""

    medium: Literal["", "Memory"] | None = Field(None, description="Memory for a tmpfs.")
    size_limit: Quantity | None = Field(None, description="Its size.")


class Volume(ApiModel):
    """A volume and where it is mounted. There are no host paths."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            Rule("[has(self.persistentVolumeClaim), has(self.configMap), has(self.secret), has(self.emptyDir)].filter(x, x).size() == 1", "set exactly one of persistentVolumeClaim, configMap, secret, emptyDir"),
            Rule("!(self.name in ['checkpoints', 'scratch', 'shared-memory', 'token'])", "checkpoints, scratch, shared-memory and token are names of the runtime's own volumes: choose another"),
        )
    )  # fmt: skip
    name: DnsLabel = Field(description="Its name.")
    mount_path: Annotated[str, Field(max_length=512, pattern=r"^/[^:]*$")] = Field(description="Where it is mounted.")
    read_only: bool = Field(False, description="Mount it read-only.")
    sub_path: Annotated[str, Field(max_length=512)] | None = Field(None, description="A path inside the volume.")
    persistent_volume_claim: ClaimSource | None = Field(None, description="An existing claim.")
    config_map: ConfigMapSource | None = Field(None, description="A ConfigMap.")
    secret: SecretSource | None = Field(None, description="A Secret.")
    empty_dir: EmptyDirSource | None = Field(None, description="Scratch space.")


class Toleration(ApiModel):
    """As in a pod."""

    key: Annotated[str, Field(max_length=316)] | None = Field(
        None, description="The taint's key; unset with Exists: all."
    )
    operator: Literal["Exists", "Equal"] | None = Field(None, description="Equal if unset.")
    value: LabelValue | None = Field(None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="The taint's effect; unset: all."
    )
    toleration_seconds: int | None = Field(None, description="How long a NoExecute taint is tolerated.")


class PodSecurity(ApiModel):
    """User and groups of the container; everything else is fixed to the `restricted` Pod Security Standard."""

    run_as_user: int | None = Field(None, ge=1, description="User id; never 0.")
    run_as_group: int | None = Field(None, ge=0, description="Group id.")
    fs_group: int | None = Field(None, ge=0, description="Group that owns mounted volumes.")
    supplemental_groups: list[int] | None = Field(None, max_length=32, description="More groups.")


class PodTemplate(ApiModel):
    """Settings of the worker pods beyond the fields of the job."""

    labels: dict[str, LabelValue] | None = Field(None, max_length=32, description="More labels.")
    annotations: dict[str, AnnotationValue] | None = Field(None, max_length=32, description="More annotations.")
    image_pull_secrets: list[DnsName] | None = Field(None, max_length=8, description="Names of pull secrets.")
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="Kubernetes' own default if unset."
    )
    service_account_name: DnsName | None = Field(
        None,
        description="Service account of the workers. Its Kubernetes token is not mounted; only one for the operator's stream is.",
    )
    affinity: dict[str, Any] | None = Field(
        None, description="As in a pod.", json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}
    )
    scheduler_name: DnsName | None = Field(None, description="Another scheduler.")
    runtime_class_name: DnsName | None = Field(None, description="RuntimeClass, such as nvidia.")
    termination_grace_period_seconds: int = Field(
        30, ge=2, le=86400, description="Time from SIGTERM to SIGKILL; the workers save a checkpoint in it."
    )
    security_context: PodSecurity | None = Field(None, description="User and groups.")
