from models_registry.models.alias_gate import AliasGate
from models_registry.models.artifact import Artifact, Blob
from models_registry.models.evaluation_result import EvaluationResult
from models_registry.models.registered_model import Alias, RegisteredModel
from models_registry.models.revision import Revision
from models_registry.models.revision_import import RevisionImport
from models_registry.models.revision_merge import RevisionMerge
from models_registry.models.trial import Trial

__all__ = [
    "Alias",
    "AliasGate",
    "Artifact",
    "Blob",
    "EvaluationResult",
    "RegisteredModel",
    "Revision",
    "RevisionImport",
    "RevisionMerge",
    "Trial",
]
