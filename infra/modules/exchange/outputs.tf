output "bucket" {
  value = aws_s3_bucket.this.bucket
  # The bucket is handed out only once it is protected.
  depends_on = [aws_s3_bucket_policy.this]
}

# For tests.
output "tags" {
  value = aws_s3_bucket.this.tags
}
