"""API group, labels and annotations. The only place where these strings are written."""

GROUP = "disttrain.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DistTrainJob"
PLURAL = "disttrainjobs"
SINGULAR = "disttrainjob"
SHORT_NAME = "dtj"

JOB = f"{GROUP}/job"
"""On every child: the job's name. The operator watches only pods that carry it."""
WORKER_INDEX = f"{GROUP}/worker-index"
INCARNATION = f"{GROUP}/incarnation"
"""The incarnation for which a pod was *created*; its agent may have joined later ones in place."""
JOB_UID = f"{GROUP}/job-uid"
"""Annotation: children of a deleted job of the same name are told apart by it."""
SPEC_GENERATION = f"{GROUP}/generation"
"""Annotation: the job generation a pod was rendered from."""

DRILL = f"{GROUP}/drill"
"""Annotation of a job: the fire drill that is about to hit it."""

MANAGED_BY = "app.kubernetes.io/managed-by"
COMPONENT = "app.kubernetes.io/component"
MANAGER = "disttrain-operator"

QUEUE_NAME = "kueue.x-k8s.io/queue-name"
