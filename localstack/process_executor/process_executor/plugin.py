"""Plugin that LocalStack finds under the name `process` (`LAMBDA_RUNTIME_EXECUTOR=process`)."""

from typing import Any

from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin

from process_executor.executor import ProcessRuntimeExecutor


class ProcessRuntimeExecutorPlugin(RuntimeExecutorPlugin):
    name = "process"

    def load(self, *args: Any, **kwargs: Any) -> type[ProcessRuntimeExecutor]:
        return ProcessRuntimeExecutor
