# Rights of the coordinator: exactly these.

mock_provider "aws" {}

variables {
  name      = "gust-coordinator"
  account   = { id = "123456789012", partition = "aws", region = "eu-central-1" }
  functions = ["gust-arm64-2048-0"]
  tables    = [{ bucket = "lake", prefix = "warehouse/" }, { bucket = "whole", prefix = "" }]
  exchange  = { buckets = ["results"], prefix = "exchange/" }
  tags      = { gust = "gust", component = "coordinator" }
}

run "policy" {
  command = plan

  module {
    source = "./modules/coordinator"
  }

  assert {
    condition = { for s in concat(jsondecode(aws_iam_policy.work.policy).Statement, jsondecode(aws_iam_policy.list_tables.policy).Statement) : s.Sid => s.Action } == {
      Functions     = ["lambda:GetAlias", "lambda:GetFunctionConfiguration", "lambda:InvokeFunction"]
      Quota         = ["lambda:GetAccountSettings"]
      Exchange      = ["s3:DeleteObject", "s3:GetObject", "s3:PutObject"]
      ListExchange  = ["s3:ListBucket"]
      LocateBuckets = ["s3:GetBucketLocation"]
      ReadTables    = ["s3:GetObject"]
      ListTables0   = ["s3:ListBucket"]
      ListTables1   = ["s3:ListBucket"]
    }
    error_message = "the actions are not the expected ones: ${aws_iam_policy.work.policy} ${aws_iam_policy.list_tables.policy}"
  }

  assert {
    condition = { for s in concat(jsondecode(aws_iam_policy.work.policy).Statement, jsondecode(aws_iam_policy.list_tables.policy).Statement) : s.Sid => s.Resource } == {
      Functions = [
        "arn:aws:lambda:eu-central-1:123456789012:function:gust-arm64-2048-0",
        "arn:aws:lambda:eu-central-1:123456789012:function:gust-arm64-2048-0:*",
      ]
      Quota         = ["*"]
      Exchange      = ["arn:aws:s3:::results/exchange/*"]
      ListExchange  = ["arn:aws:s3:::results"]
      LocateBuckets = ["arn:aws:s3:::results", "arn:aws:s3:::lake", "arn:aws:s3:::whole"]
      ReadTables    = ["arn:aws:s3:::lake/warehouse/*", "arn:aws:s3:::whole/*"]
      ListTables0   = ["arn:aws:s3:::lake"]
      ListTables1   = ["arn:aws:s3:::whole"]
    }
    error_message = "the resources are not the expected ones: ${aws_iam_policy.work.policy} ${aws_iam_policy.list_tables.policy}"
  }

  assert {
    condition     = [for s in concat(jsondecode(aws_iam_policy.work.policy).Statement, jsondecode(aws_iam_policy.list_tables.policy).Statement) : s.Sid if contains(s.Resource, "*")] == ["Quota"]
    error_message = "only GetAccountSettings has no narrower resource"
  }

  assert {
    condition     = alltrue([for s in concat(jsondecode(aws_iam_policy.work.policy).Statement, jsondecode(aws_iam_policy.list_tables.policy).Statement) : s.Effect == "Allow" && alltrue([for a in s.Action : !strcontains(a, "*")])])
    error_message = "no action may be a wildcard"
  }

  assert {
    condition = { for s in concat(jsondecode(aws_iam_policy.work.policy).Statement, jsondecode(aws_iam_policy.list_tables.policy).Statement) : s.Sid => s.Condition.StringLike["s3:prefix"] if try(s.Condition, null) != null } == {
      ListExchange = ["exchange/*"]
      ListTables0  = ["warehouse/*"]
    }
    error_message = "listing must stay within the prefixes: ${aws_iam_policy.work.policy} ${aws_iam_policy.list_tables.policy}"
  }

  assert {
    condition     = jsondecode(aws_iam_role.this.assume_role_policy).Statement[*].Principal == [{ AWS = ["arn:aws:iam::123456789012:root"] }]
    error_message = "without principals the account's IAM policies decide: ${aws_iam_role.this.assume_role_policy}"
  }

  assert {
    condition     = alltrue([for a in aws_iam_role_policy_attachment.this : a.role == "gust-coordinator"]) && aws_iam_role.this.tags["gust"] == "gust" && aws_iam_policy.work.tags["component"] == "coordinator"
    error_message = "the role must have the policies, and all their tags"
  }
}

run "attached" {
  # ARNs are known only after an apply.
  command = apply

  module {
    source = "./modules/coordinator"
  }

  override_resource {
    target = aws_iam_policy.work
    values = { arn = "arn:aws:iam::123456789012:policy/gust-coordinator" }
  }
  override_resource {
    target = aws_iam_policy.list_tables
    values = { arn = "arn:aws:iam::123456789012:policy/gust-coordinator-tables" }
  }

  assert {
    condition = toset(values(aws_iam_role_policy_attachment.this)[*].policy_arn) == toset([
      "arn:aws:iam::123456789012:policy/gust-coordinator", "arn:aws:iam::123456789012:policy/gust-coordinator-tables"
    ])
    error_message = "the coordinator's policies must be attached"
  }
}

run "named_principals" {
  command = plan

  module {
    source = "./modules/coordinator"
  }

  variables {
    principals = ["arn:aws:iam::123456789012:role/analyst", "ec2.amazonaws.com"]
  }

  assert {
    condition = jsondecode(aws_iam_role.this.assume_role_policy).Statement[*].Principal == [
      { AWS = ["arn:aws:iam::123456789012:role/analyst"], Service = ["ec2.amazonaws.com"] }
    ]
    error_message = "roles and services are named apart: ${aws_iam_role.this.assume_role_policy}"
  }
}

run "too_long_a_policy" {
  command = plan

  module {
    source = "./modules/coordinator"
  }

  variables {
    tables = [for i in range(100) : { bucket = "bucket-number-${i}", prefix = "some/where/" }]
  }

  expect_failures = [aws_iam_policy.work, aws_iam_policy.list_tables]
}

run "catalogs" {
  command = plan

  module {
    source = "./modules/coordinator"
  }

  variables {
    glue_databases = ["sales", "web"]
    table_buckets  = ["arn:aws:s3tables:eu-central-1:123456789012:bucket/lake"]
  }

  assert {
    condition = { for s in jsondecode(aws_iam_policy.catalogs[0].policy).Statement : s.Sid => s.Action } == {
      ReadGlue = ["glue:GetCatalog", "glue:GetDatabase", "glue:GetDatabases", "glue:GetTable", "glue:GetTables"]
      ReadTableBuckets = [
        "s3tables:GetNamespace", "s3tables:GetTable", "s3tables:GetTableBucket", "s3tables:GetTableData",
        "s3tables:GetTableMetadataLocation", "s3tables:ListNamespaces", "s3tables:ListTables",
      ]
    }
    error_message = "the actions are not the expected ones: ${aws_iam_policy.catalogs[0].policy}"
  }

  assert {
    condition = { for s in jsondecode(aws_iam_policy.catalogs[0].policy).Statement : s.Sid => s.Resource } == {
      ReadGlue = [
        "arn:aws:glue:eu-central-1:123456789012:catalog",
        "arn:aws:glue:eu-central-1:123456789012:database/sales",
        "arn:aws:glue:eu-central-1:123456789012:database/web",
        "arn:aws:glue:eu-central-1:123456789012:table/sales/*",
        "arn:aws:glue:eu-central-1:123456789012:table/web/*",
      ]
      ReadTableBuckets = [
        "arn:aws:s3tables:eu-central-1:123456789012:bucket/lake",
        "arn:aws:s3tables:eu-central-1:123456789012:bucket/lake/table/*",
      ]
    }
    error_message = "the resources are not the expected ones: ${aws_iam_policy.catalogs[0].policy}"
  }
}

run "no_catalogs" {
  command = plan

  module {
    source = "./modules/coordinator"
  }

  assert {
    condition     = length(aws_iam_policy.catalogs) == 0
    error_message = "without a catalog there is no policy on one"
  }
}
