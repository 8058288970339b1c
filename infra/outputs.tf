output "functions" {
  description = "ARN of each function's alias `live`, which the coordinator invokes."
  value       = [for key in keys(local.functions) : module.function[key].alias_arn]
}

output "exchange" {
  description = "Place of results that are too large for a function's response."
  value       = local.exchange_url
}

output "coordinator_role_arn" {
  description = "Role for the coordinator: invokes these functions, reads the tables, uses the exchange, nothing else."
  value       = module.coordinator.role_arn
}

output "coordinator_policy_arns" {
  description = "The same rights as policies, to attach to a role that exists."
  value       = module.coordinator.policy_arns
}

output "function_role_names" {
  description = "Role of each function, to attach what tables need beyond S3, e.g. kms:Decrypt."
  value       = { for key, function in module.function : key => function.role_name }
}

output "gust_toml" {
  description = "A gust.toml for this stack: terraform output -raw gust_toml > gust.toml"
  value = templatefile("${path.module}/gust.toml.tftpl", {
    region    = local.account.region
    endpoint  = var.endpoint
    exchange  = local.exchange_url
    functions = [for key in keys(local.functions) : module.function[key].alias_arn]
  })
}
