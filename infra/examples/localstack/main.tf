# The same stack on LocalStack, with a bucket for tables. It proves the wiring, not IAM, ramp, bandwidth or bills.
# LocalStack forgets the tags that an alarm is made with, so that a second plan wants to add them.
terraform {
  required_version = ">= 1.9"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

provider "aws" {
  region     = var.region
  access_key = "test"
  secret_key = "test"

  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true

  endpoints {
    cloudwatch = var.endpoint
    iam        = var.endpoint
    lambda     = var.endpoint
    logs       = var.endpoint
    s3         = var.endpoint
    sts        = var.endpoint
  }
}

resource "aws_s3_bucket" "tables" {
  bucket        = var.table_bucket
  force_destroy = true
}

module "gust" {
  source = "../.."

  name      = var.name
  functions = var.functions
  packages  = var.packages
  tables    = [{ bucket = aws_s3_bucket.tables.bucket }]
  endpoint  = var.endpoint
}
