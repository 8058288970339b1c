data "aws_partition" "current" {}
data "aws_region" "current" {}
data "aws_caller_identity" "current" {}

locals {
  account = {
    id        = data.aws_caller_identity.current.account_id
    partition = data.aws_partition.current.partition
    region    = data.aws_region.current.name
  }

  # One entry a function: "arm64-2048-0" and its settings.
  functions = merge([
    for f in var.functions : { for clone in range(f.clones) : "${f.arch}-${f.memory_mb}-${clone}" => f }
  ]...)

  # A prefix ends with a slash, so that "lake" does not open "lakehouse/".
  tables = [for t in var.tables : {
    bucket = t.bucket
    prefix = trim(t.prefix, "/") == "" ? "" : "${trim(t.prefix, "/")}/"
  }]

  # The first bucket has the name alone, so that a stack keeps it when it gets more.
  exchange_bucket_name = coalesce(var.exchange_bucket_name, "${var.name}-${local.account.id}-${local.account.region}")
  exchange = {
    buckets = [for n in range(var.exchange_buckets) : n == 0 ? local.exchange_bucket_name : "${local.exchange_bucket_name}-${n + 1}"]
    prefix  = "exchange/"
  }
  exchange_url = "s3://${join(",", module.exchange[*].bucket)}/${trimsuffix(local.exchange.prefix, "/")}"
}

module "exchange" {
  source = "./modules/exchange"
  count  = var.exchange_buckets

  bucket  = local.exchange.buckets[count.index]
  account = local.account
  tags    = merge(var.tags, { gust = var.name, component = "exchange" })
}

module "function" {
  source   = "./modules/function"
  for_each = local.functions

  name                 = "${var.name}-${each.key}"
  account              = local.account
  arch                 = each.value.arch
  memory_mb            = each.value.memory_mb
  reserved_concurrency = each.value.reserved_concurrency
  temp_mb              = each.value.temp_mb
  timeout_seconds      = each.value.timeout_seconds
  package              = var.packages[each.value.arch]
  tables               = local.tables
  table_buckets        = var.table_buckets
  exchange             = local.exchange
  vpc                  = var.vpc
  log_retention_days   = var.log_retention_days
  alarms               = var.alarms
  alarm_topic_arns     = var.alarm_topic_arns
  tags                 = merge(var.tags, { gust = var.name, component = "function" })
}

module "coordinator" {
  source = "./modules/coordinator"

  name       = "${var.name}-coordinator"
  account    = local.account
  functions  = [for key in keys(local.functions) : "${var.name}-${key}"]
  tables     = local.tables
  exchange   = local.exchange
  principals = var.coordinator_principals

  glue_databases = var.glue_databases
  table_buckets  = var.table_buckets

  tags = merge(var.tags, { gust = var.name, component = "coordinator" })
}
