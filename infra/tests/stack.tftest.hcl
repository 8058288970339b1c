# The whole stack: names, numbers, outputs.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mocked" }
  }
  mock_resource "aws_iam_policy" {
    defaults = { arn = "arn:aws:iam::123456789012:policy/mocked" }
  }
  mock_resource "aws_lambda_alias" {
    defaults = { arn = "arn:aws:lambda:eu-central-1:123456789012:function:mocked:live" }
  }
}

variables {
  functions = [
    { memory_mb = 2048, arch = "arm64", clones = 2 },
    { memory_mb = 1024, arch = "x86_64", reserved_concurrency = 3 },
  ]
  packages = { arm64 = "tests/testdata/function.zip", x86_64 = "./tests/testdata/function.zip" }
  tables   = [{ bucket = "lake", prefix = "/warehouse" }, { bucket = "whole" }]
}

run "stack" {
  command = apply

  assert {
    condition     = keys(output.function_role_names) == ["arm64-2048-0", "arm64-2048-1", "x86_64-1024-0"]
    error_message = "there must be one function for each clone: ${join(", ", keys(output.function_role_names))}"
  }

  assert {
    condition     = values(output.function_role_names) == ["gust-arm64-2048-0", "gust-arm64-2048-1", "gust-x86_64-1024-0"]
    error_message = "names are NAME-ARCH-MEMORY-CLONE: ${join(", ", values(output.function_role_names))}"
  }

  assert {
    condition     = length(output.functions) == 3
    error_message = "each function must be handed out"
  }

  assert {
    condition     = output.exchange == "s3://gust-123456789012-eu-central-1/exchange"
    error_message = "the exchange is a prefix of the bucket: ${output.exchange}"
  }

  assert {
    condition     = local.exchange.buckets == ["gust-123456789012-eu-central-1"]
    error_message = "the bucket is named after account and region: ${join(", ", local.exchange.buckets)}"
  }

  assert {
    condition     = local.tables == [{ bucket = "lake", prefix = "warehouse/" }, { bucket = "whole", prefix = "" }]
    error_message = "a prefix must end with a slash, or \"warehouse\" would open \"warehouse-secret/\""
  }

  assert {
    condition     = output.gust_toml == file("tests/testdata/gust.toml")
    error_message = "gust_toml is not tests/testdata/gust.toml: ${output.gust_toml}"
  }
}

run "wiring" {
  command = plan

  variables {
    functions = [
      { memory_mb = 2048, arch = "arm64", temp_mb = 1024, timeout_seconds = 60, reserved_concurrency = 3 },
      { memory_mb = 1024, arch = "x86_64" },
    ]
    exchange_bucket_name   = "results"
    exchange_buckets       = 2
    coordinator_principals = ["ec2.amazonaws.com"]
    log_retention_days     = 14
    alarm_topic_arns       = ["arn:aws:sns:eu-central-1:123456789012:oncall"]
    vpc                    = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
    tags                   = { team = "lake" }
  }

  assert {
    condition = jsonencode({ for key, m in module.function : key => { for name, value in m.function : name => value if name != "tags" } }) == jsonencode({
      "arm64-2048-0" = {
        arch                 = "arm64"
        memory_mb            = 2048
        temp_mb              = 1024
        timeout_seconds      = 60
        reserved_concurrency = 3
        package              = "tests/testdata/function.zip"
        subnet_ids           = ["subnet-1"]
        log_retention_days   = 14
        alarm_topic_arns     = [["arn:aws:sns:eu-central-1:123456789012:oncall"], ["arn:aws:sns:eu-central-1:123456789012:oncall"]]
      }
      "x86_64-1024-0" = {
        arch                 = "x86_64"
        memory_mb            = 1024
        temp_mb              = 512
        timeout_seconds      = 300
        reserved_concurrency = -1
        package              = "./tests/testdata/function.zip"
        subnet_ids           = ["subnet-1"]
        log_retention_days   = 14
        alarm_topic_arns     = [["arn:aws:sns:eu-central-1:123456789012:oncall"], ["arn:aws:sns:eu-central-1:123456789012:oncall"]]
      }
    })
    error_message = "each function must get its own settings, above all the zip of its architecture"
  }

  assert {
    condition = (
      alltrue([for m in module.function : m.function.tags == tomap({ team = "lake", gust = "gust", component = "function" })])
      && alltrue([for m in module.exchange : m.tags == tomap({ team = "lake", gust = "gust", component = "exchange" })])
      && module.coordinator.tags == tomap({ team = "lake", gust = "gust", component = "coordinator" })
    )
    error_message = "everything must be tagged with the stack's name, its component and the user's tags"
  }

  assert {
    condition = [for s in jsondecode(module.coordinator.policies[0]).Statement : s.Resource if s.Sid == "Functions"][0] == flatten([
      for name in ["gust-arm64-2048-0", "gust-x86_64-1024-0"] : ["arn:aws:lambda:eu-central-1:123456789012:function:${name}", "arn:aws:lambda:eu-central-1:123456789012:function:${name}:*"]
    ])
    error_message = "the coordinator may invoke exactly the stack's functions: ${module.coordinator.policies[0]}"
  }

  assert {
    condition = alltrue([
      for policy in concat([module.coordinator.policies[0]], values(module.function)[*].policy) :
      { for s in jsondecode(policy).Statement : s.Sid => s.Resource if contains(["Exchange", "ReadTables"], s.Sid) } == {
        Exchange   = ["arn:aws:s3:::results/exchange/*", "arn:aws:s3:::results-2/exchange/*"]
        ReadTables = ["arn:aws:s3:::lake/warehouse/*", "arn:aws:s3:::whole/*"]
      }
    ])
    error_message = "both sides may use the exchange's prefix and the named tables, nothing else"
  }

  assert {
    condition     = output.exchange == "s3://results,results-2/exchange" && strcontains(module.coordinator.assume_role_policy, "ec2.amazonaws.com")
    error_message = "the buckets' names and the principals must be the given ones"
  }
}

run "without_alarms" {
  command = plan

  variables {
    alarms = false
  }

  assert {
    condition     = alltrue([for m in module.function : length(m.function.alarm_topic_arns) == 0])
    error_message = "alarms can be switched off"
  }
}

run "stand_in_for_aws" {
  command = apply

  variables {
    endpoint = "http://127.0.0.1:4566"
  }

  assert {
    condition     = output.gust_toml == file("tests/testdata/gust-endpoint.toml")
    error_message = "gust_toml is not tests/testdata/gust-endpoint.toml: ${output.gust_toml}"
  }
}

run "defaults" {
  command = plan

  variables {
    functions = [{ memory_mb = 2048, arch = "arm64" }]
  }

  assert {
    condition = local.functions == {
      "arm64-2048-0" = { memory_mb = 2048, arch = "arm64", clones = 1, reserved_concurrency = -1, temp_mb = 512, timeout_seconds = 300 }
    }
    error_message = "one function, nothing reserved, 512 MB, 5 minutes: ${jsonencode(local.functions)}"
  }

  assert {
    condition     = var.log_retention_days == 7 && var.alarms && var.vpc == null
    error_message = "logs go after a week, alarms are on, no VPC"
  }
}
