# The variable that has bad input refuses it.

mock_provider "aws" {}

variables {
  functions = [{ memory_mb = 2048, arch = "arm64" }]
  packages  = { arm64 = "tests/testdata/function.zip" }
  tables    = [{ bucket = "lake" }]
}

run "an_upper_case_name" {
  command = plan
  variables {
    name = "Gust"
  }
  expect_failures = [var.name]
}

run "too_long_a_name" {
  command = plan
  variables {
    name = "a-name-that-is-longer-than-thirty-letters"
  }
  expect_failures = [var.name]
}

run "no_functions" {
  command = plan
  variables {
    functions = []
  }
  expect_failures = [var.functions]
}

run "an_unknown_arch" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048, arch = "riscv" }]
  }
  expect_failures = [var.functions]
}

run "too_little_memory" {
  command = plan
  variables {
    functions = [{ memory_mb = 64, arch = "arm64" }]
  }
  expect_failures = [var.functions]
}

run "too_much_memory" {
  command = plan
  variables {
    functions = [{ memory_mb = 16384, arch = "arm64" }]
  }
  expect_failures = [var.functions]
}

run "no_whole_number" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048.5, arch = "arm64" }]
  }
  expect_failures = [var.functions]
}

run "too_little_temp" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048, arch = "arm64", temp_mb = 100 }]
  }
  expect_failures = [var.functions]
}

run "too_long_a_timeout" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048, arch = "arm64", timeout_seconds = 901 }]
  }
  expect_failures = [var.functions]
}

run "less_than_nothing_reserved" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048, arch = "arm64", reserved_concurrency = -2 }]
  }
  expect_failures = [var.functions]
}

run "no_clones" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048, arch = "arm64", clones = 0 }]
  }
  expect_failures = [var.functions]
}

run "too_many_functions" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048, arch = "arm64", clones = 21 }]
  }
  expect_failures = [var.functions]
}

run "twice_the_same_function" {
  command = plan
  variables {
    functions = [{ memory_mb = 2048, arch = "arm64" }, { memory_mb = 2048, arch = "arm64", clones = 2 }]
  }
  expect_failures = [var.functions]
}

run "no_package_for_the_arch" {
  command = plan
  variables {
    packages = { x86_64 = "tests/testdata/function.zip" }
  }
  expect_failures = [var.packages]
}

run "a_package_that_is_not_there" {
  command = plan
  variables {
    packages = { arm64 = "tests/testdata/missing.zip" }
  }
  expect_failures = [var.packages]
}

run "a_package_for_an_unknown_arch" {
  command = plan
  variables {
    packages = { arm64 = "tests/testdata/function.zip", riscv = "tests/testdata/function.zip" }
  }
  expect_failures = [var.packages]
}

run "no_tables" {
  command = plan
  variables {
    tables = []
  }
  expect_failures = [var.tables]
}

run "all_buckets" {
  command = plan
  variables {
    tables = [{ bucket = "*" }]
  }
  expect_failures = [var.tables]
}

run "a_bucket_as_url" {
  command = plan
  variables {
    tables = [{ bucket = "s3://lake" }]
  }
  expect_failures = [var.tables]
}

run "a_wildcard_prefix" {
  command = plan
  variables {
    tables = [{ bucket = "lake", prefix = "ware*" }]
  }
  expect_failures = [var.tables]
}

run "a_policy_variable_as_prefix" {
  command = plan
  variables {
    tables = [{ bucket = "lake", prefix = "$${aws:username}" }]
  }
  expect_failures = [var.tables]
}

run "a_bad_bucket_name" {
  command = plan
  variables {
    exchange_bucket_name = "Bucket"
  }
  expect_failures = [var.exchange_bucket_name]
}

run "tables_in_the_exchange" {
  command = plan
  variables {
    tables               = [{ bucket = "lake" }]
    exchange_bucket_name = "lake"
  }
  expect_failures = [var.exchange_bucket_name]
}

run "tables_in_the_second_exchange" {
  command = plan
  variables {
    tables               = [{ bucket = "lake-2" }]
    exchange_bucket_name = "lake"
    exchange_buckets     = 2
  }
  expect_failures = [var.exchange_buckets]
}

run "too_many_exchange_buckets" {
  command = plan
  variables {
    exchange_buckets = 17
  }
  expect_failures = [var.exchange_buckets]
}

run "everyone" {
  command = plan
  variables {
    coordinator_principals = ["*"]
  }
  expect_failures = [var.coordinator_principals]
}

run "no_one" {
  command = plan
  variables {
    coordinator_principals = []
  }
  expect_failures = [var.coordinator_principals]
}

run "logs_for_ever" {
  command = plan
  variables {
    log_retention_days = 0
  }
  expect_failures = [var.log_retention_days]
}

run "an_address_as_topic" {
  command = plan
  variables {
    alarm_topic_arns = ["oncall@example.com"]
  }
  expect_failures = [var.alarm_topic_arns]
}

run "a_vpc_without_subnets" {
  command = plan
  variables {
    vpc = { subnet_ids = [], security_group_ids = ["sg-1"] }
  }
  expect_failures = [var.vpc]
}

run "an_endpoint_without_scheme" {
  command = plan
  variables {
    endpoint = "127.0.0.1:4566"
  }
  expect_failures = [var.endpoint]
}
