output "gust_toml" {
  value = module.gust.gust_toml
}

output "functions" {
  value = module.gust.functions
}

output "exchange" {
  value = module.gust.exchange
}

output "table_bucket" {
  value = aws_s3_bucket.tables.bucket
}
