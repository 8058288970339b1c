variable "bucket" {
  description = "Name of the bucket to make."
  type        = string
}

variable "account" {
  description = "Account, partition and region: ARNs are spelled out, so that a plan shows whole policies."
  type        = object({ id = string, partition = string, region = string })
}

variable "tags" {
  type = map(string)
}
