from openai_api.models.file import File
from openai_api.models.fine_tuning_job import FineTuningJob, JobEvent

__all__ = ["File", "FineTuningJob", "JobEvent"]
