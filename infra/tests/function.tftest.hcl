# One function: its settings, its rights, its logs.

mock_provider "aws" {}

variables {
  name                 = "gust-arm64-2048-0"
  account              = { id = "123456789012", partition = "aws", region = "eu-central-1" }
  arch                 = "arm64"
  memory_mb            = 2048
  reserved_concurrency = -1
  temp_mb              = 1024
  timeout_seconds      = 120
  package              = "tests/testdata/function.zip"
  tables               = [{ bucket = "lake", prefix = "warehouse/" }, { bucket = "whole", prefix = "" }]
  exchange             = { buckets = ["results"], prefix = "exchange/" }
  log_retention_days   = 7
  alarms               = true
  alarm_topic_arns     = ["arn:aws:sns:eu-central-1:123456789012:oncall"]
  tags                 = { gust = "gust", component = "function" }
}

run "function" {
  command = plan

  module {
    source = "./modules/function"
  }

  assert {
    condition = (
      aws_lambda_function.this.runtime == "provided.al2023"
      && aws_lambda_function.this.handler == "bootstrap"
      && aws_lambda_function.this.architectures == tolist(["arm64"])
      && aws_lambda_function.this.memory_size == 2048
      && aws_lambda_function.this.timeout == 120
      && one(aws_lambda_function.this.ephemeral_storage).size == 1024
      && aws_lambda_function.this.reserved_concurrent_executions == -1
    )
    error_message = "the function is not what was asked for"
  }

  assert {
    condition     = aws_lambda_function.this.publish && aws_lambda_function.this.source_code_hash == filebase64sha256("tests/testdata/function.zip")
    error_message = "a changed package must become a new version"
  }

  assert {
    condition     = length(aws_lambda_function.this.vpc_config) == 0 && length(aws_iam_role_policy_attachment.vpc) == 0
    error_message = "a function is in no VPC, and has no rights for one, unless asked"
  }

  assert {
    condition     = one(aws_lambda_function.this.logging_config).log_format == "Text" && one(aws_lambda_function.this.logging_config).log_group == aws_cloudwatch_log_group.this.name
    error_message = "the log must be text, for its REPORT line is read, and go where Terraform made room"
  }

  assert {
    condition     = aws_cloudwatch_log_group.this.name == "/aws/lambda/gust-arm64-2048-0" && aws_cloudwatch_log_group.this.retention_in_days == 7
    error_message = "logs must not be kept for ever"
  }

  assert {
    condition     = aws_lambda_function_event_invoke_config.live.maximum_retry_attempts == 0 && aws_lambda_function_event_invoke_config.live.qualifier == "live"
    error_message = "Lambda must not retry"
  }

  assert {
    condition = { for key, alarm in aws_cloudwatch_metric_alarm.this : key => [alarm.metric_name, alarm.dimensions["FunctionName"], one(alarm.alarm_actions)] } == {
      Errors    = ["Errors", "gust-arm64-2048-0", "arn:aws:sns:eu-central-1:123456789012:oncall"]
      Throttles = ["Throttles", "gust-arm64-2048-0", "arn:aws:sns:eu-central-1:123456789012:oncall"]
    }
    error_message = "errors and throttles must be told"
  }

  assert {
    condition = alltrue([
      for tags in concat([aws_lambda_function.this.tags, aws_iam_role.this.tags, aws_cloudwatch_log_group.this.tags], values(aws_cloudwatch_metric_alarm.this)[*].tags) :
      tags == tomap({ gust = "gust", component = "function" })
    ])
    error_message = "everything that takes tags must have them"
  }
}

run "rights" {
  command = plan

  module {
    source = "./modules/function"
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.this.policy).Statement == [
      {
        Sid      = "Log"
        Effect   = "Allow"
        Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
        Resource = ["arn:aws:logs:eu-central-1:123456789012:log-group:/aws/lambda/gust-arm64-2048-0:*"]
      },
      {
        Sid      = "Exchange"
        Effect   = "Allow"
        Action   = ["s3:AbortMultipartUpload", "s3:GetObject", "s3:PutObject"]
        Resource = ["arn:aws:s3:::results/exchange/*"]
      },
      {
        Sid      = "ReadTables"
        Effect   = "Allow"
        Action   = ["s3:GetObject"]
        Resource = ["arn:aws:s3:::lake/warehouse/*", "arn:aws:s3:::whole/*"]
      },
    ]
    error_message = "the function's rights are not the expected ones: ${aws_iam_role_policy.this.policy}"
  }

  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement == [{ Effect = "Allow", Action = "sts:AssumeRole", Principal = { Service = "lambda.amazonaws.com" } }]
    error_message = "only Lambda may take the role"
  }

  assert {
    condition     = aws_iam_role_policy.this.role == aws_iam_role.this.name
    error_message = "the rights must be the role's"
  }
}

run "alias" {
  # Versions are known only after an apply.
  command = apply

  module {
    source = "./modules/function"
  }

  override_resource {
    target = aws_iam_role.this
    values = { arn = "arn:aws:iam::123456789012:role/gust-arm64-2048-0" }
  }
  override_resource {
    target = aws_lambda_function.this
    values = { version = "7" }
  }
  override_resource {
    target = aws_lambda_alias.live
    values = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:gust-arm64-2048-0:live" }
  }

  assert {
    condition     = aws_lambda_alias.live.name == "live" && aws_lambda_alias.live.function_version == "7" && aws_lambda_alias.live.function_name == "gust-arm64-2048-0"
    error_message = "the alias must point at the published version, not at $LATEST"
  }

  assert {
    condition     = aws_lambda_function.this.role == "arn:aws:iam::123456789012:role/gust-arm64-2048-0"
    error_message = "the function must have its own role"
  }

  assert {
    condition     = output.alias_arn == "arn:aws:lambda:eu-central-1:123456789012:function:gust-arm64-2048-0:live"
    error_message = "the alias is what is invoked"
  }
}

run "reserved_without_alarms" {
  command = plan

  module {
    source = "./modules/function"
  }

  variables {
    reserved_concurrency = 3
    alarms               = false
  }

  assert {
    condition     = aws_lambda_function.this.reserved_concurrent_executions == 3 && length(aws_cloudwatch_metric_alarm.this) == 0
    error_message = "three must be reserved, and alarms can be switched off"
  }
}

run "in_a_vpc" {
  command = plan

  module {
    source = "./modules/function"
  }

  variables {
    vpc = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
  }

  assert {
    condition     = one(aws_lambda_function.this.vpc_config).subnet_ids == toset(["subnet-1"]) && one(aws_lambda_function.this.vpc_config).security_group_ids == toset(["sg-1"])
    error_message = "the function must be in the VPC"
  }

  assert {
    condition     = one(aws_iam_role_policy_attachment.vpc).policy_arn == "arn:aws:iam::aws:policy/service-role/AWSLambdaENIManagementAccess"
    error_message = "in a VPC it needs rights on network interfaces, and no others"
  }
}

run "table_buckets" {
  command = plan

  module {
    source = "./modules/function"
  }

  variables {
    table_buckets = ["arn:aws:s3tables:eu-central-1:123456789012:bucket/lake"]
  }

  assert {
    condition     = [for s in jsondecode(aws_iam_role_policy.table_buckets[0].policy).Statement : [s.Action, s.Resource]] == [[["s3tables:GetTableData"], ["arn:aws:s3tables:eu-central-1:123456789012:bucket/lake/table/*"]]]
    error_message = "a function may read the data of tables in these buckets: ${aws_iam_role_policy.table_buckets[0].policy}"
  }
}
