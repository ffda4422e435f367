from openai_api.models.batch import Batch, BatchLine
from openai_api.models.file import File
from openai_api.models.fine_tuning_job import FineTuningJob, JobEvent

__all__ = ["Batch", "BatchLine", "File", "FineTuningJob", "JobEvent"]
