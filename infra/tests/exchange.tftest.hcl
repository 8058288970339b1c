# The bucket in which functions leave results.

mock_provider "aws" {}

run "exchange" {
  command = plan

  module {
    source = "./modules/exchange"
  }

  variables {
    bucket  = "gust-123456789012-eu-central-1"
    account = { id = "123456789012", partition = "aws", region = "eu-central-1" }
    tags    = { gust = "gust", component = "exchange" }
  }

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "the bucket must not be public in any way"
  }

  assert {
    condition     = one(aws_s3_bucket_ownership_controls.this.rule).object_ownership == "BucketOwnerEnforced"
    error_message = "access lists must be off"
  }

  assert {
    condition = one(flatten([
      for rule in aws_s3_bucket_server_side_encryption_configuration.this.rule : rule.apply_server_side_encryption_by_default[*].sse_algorithm
    ])) == "AES256"
    error_message = "objects must be encrypted"
  }

  assert {
    condition = jsondecode(aws_s3_bucket_policy.this.policy).Statement == [{
      Sid       = "TlsOnly"
      Effect    = "Deny"
      Principal = "*"
      Action    = "s3:*"
      Resource  = ["arn:aws:s3:::gust-123456789012-eu-central-1", "arn:aws:s3:::gust-123456789012-eu-central-1/*"]
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
    error_message = "the bucket policy must deny what is not encrypted on its way, and grant nothing: ${aws_s3_bucket_policy.this.policy}"
  }

  assert {
    condition = length(aws_s3_bucket_lifecycle_configuration.this.rule) == 1 && alltrue([
      for rule in aws_s3_bucket_lifecycle_configuration.this.rule :
      rule.status == "Enabled" && one(rule.expiration).days == 1 && one(rule.abort_incomplete_multipart_upload).days_after_initiation == 1
    ])
    error_message = "objects and unfinished uploads must go after a day"
  }

  assert {
    condition = alltrue([
      for filter in flatten(aws_s3_bucket_lifecycle_configuration.this.rule[*].filter) : filter.prefix == "" && length(filter.tag) + length(filter.and) == 0
    ])
    error_message = "the lifecycle rule must cover the whole bucket"
  }

  assert {
    condition     = aws_s3_bucket.this.force_destroy
    error_message = "a destroy must leave nothing"
  }

  assert {
    condition     = aws_s3_bucket.this.tags == tomap({ gust = "gust", component = "exchange" })
    error_message = "the bucket needs its tags"
  }
}
