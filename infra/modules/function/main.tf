# The log group is made before the function. One that Lambda makes by itself keeps logs for ever and survives a destroy. The
# function has no right to make it.
resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.log_retention_days
  tags              = var.tags
}

resource "aws_lambda_function" "this" {
  function_name = var.name
  description   = "Runs fragments of Gust's queries"
  role          = aws_iam_role.this.arn

  runtime          = "provided.al2023"
  handler          = "bootstrap"
  architectures    = [var.arch]
  filename         = var.package
  source_code_hash = filebase64sha256(var.package)
  # Each change becomes a version that does not change any more; see the alias.
  publish = true

  memory_size                    = var.memory_mb
  timeout                        = var.timeout_seconds
  reserved_concurrent_executions = var.reserved_concurrency

  ephemeral_storage {
    size = var.temp_mb
  }

  environment {
    variables = { RUST_LOG = "warn" }
  }

  # The format is text: the coordinator reads the billed time of an invocation from the REPORT line at the log's tail.
  logging_config {
    log_format = "Text"
    log_group  = aws_cloudwatch_log_group.this.name
  }

  dynamic "vpc_config" {
    for_each = var.vpc[*]
    content {
      subnet_ids         = vpc_config.value.subnet_ids
      security_group_ids = vpc_config.value.security_group_ids
    }
  }

  tags = var.tags

  # The rights come first: Lambda checks those on network interfaces when it makes the function.
  depends_on = [aws_iam_role_policy.this, aws_iam_role_policy_attachment.vpc]
}

# The alias moves once the new version exists. A query stays with the version that it started with, so that an apply does not break it.
resource "aws_lambda_alias" "live" {
  name             = "live"
  description      = "The version that new queries use"
  function_name    = aws_lambda_function.this.function_name
  function_version = aws_lambda_function.this.version
}

# The coordinator invokes synchronously and retries by itself, so that each attempt is counted and paid for knowingly. Without
# this, Lambda would run a fragment that failed in an asynchronous invocation twice more.
resource "aws_lambda_function_event_invoke_config" "live" {
  function_name                = aws_lambda_function.this.function_name
  qualifier                    = aws_lambda_alias.live.name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60
}

# The same settings hold for the bare name.
resource "aws_lambda_function_event_invoke_config" "latest" {
  function_name                = aws_lambda_function.this.function_name
  maximum_retry_attempts       = 0
  maximum_event_age_in_seconds = 60
}
