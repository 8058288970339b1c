//! Faults of delete files, and of digests in the exchange.

use super::*;

/// Makes a table with one damaged delete file, reads its data file, and returns the error.
async fn fault(damage: Damage) -> (FragmentErrorKind, String, Option<String>) {
    let mut table = Table::new();
    let file = table.data("a.parquet", 0).await;
    let mut deletes = unit("a.parquet");
    damage(&mut table, &mut deletes).await;
    let error = table.ids(&[(file, Some(deletes))]).await.expect_err("damaged");
    let told = classify(&error);
    (told.kind, told.message, told.hint)
}

type Damage = for<'a> fn(&'a mut Table, &'a mut Unit) -> futures::future::BoxFuture<'a, ()>;

/// Changes the bytes of a delete file in its place.
async fn change(table: &Table, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let path = Path::from(name);
    let mut bytes = table.store.get(&path).await.expect("an object").bytes().await.expect("bytes").to_vec();
    change(&mut bytes);
    table.store.put(&path, PutPayload::from(bytes)).await.expect("put");
}

fn set_cardinality(table: &mut Table, wanted: u64) {
    if let DeleteContent::Vector { cardinality, .. } = &mut table.deletes[0].content {
        *cardinality = wanted;
    }
}

#[tokio::test]
async fn each_damage_is_named_with_its_file() {
    use futures::FutureExt;
    let corrupt = FragmentErrorKind::FileCorrupt;
    let cases: [(FragmentErrorKind, &str, Damage); 16] = [
        (
            corrupt,
            "file `v` of table `t`: the deletion vector at byte 4: it has 2 positions, its manifest says 3",
            |table, unit| {
                async move {
                    unit.vector = Some(table.vector("v", [1, 2]).await);
                    set_cardinality(table, 3);
                }
                .boxed()
            },
        ),
        (corrupt, "file `v` of table `t`: the deletion vector at byte 4: its checksum is wrong", |table, unit| {
            async move {
                unit.vector = Some(table.vector("v", [1, 2]).await);
                change(table, "v", |bytes| bytes[20] ^= 1).await;
            }
            .boxed()
        }),
        (
            corrupt,
            "file `v` of table `t`: the deletion vector at byte 4: it does not begin as a vector",
            |table, unit| {
                async move {
                    unit.vector = Some(table.vector("v", [1, 2]).await);
                    change(table, "v", |bytes| bytes[8] ^= 1).await;
                }
                .boxed()
            },
        ),
        (corrupt, "file `v` of table `t`: the deletion vector at byte 4: it has 1000 bytes of", |table, unit| {
            async move {
                unit.vector = Some(table.vector("v", [1, 2]).await);
                table.deletes[0].content = DeleteContent::Vector { offset: 4, bytes: 1000, cardinality: 2 };
            }
            .boxed()
        }),
        (corrupt, "file `v` of table `t`: it deletes row 30 of s3://lake/a.parquet, which has 30", |table, unit| {
            async move { unit.vector = Some(table.vector("v", [1, 30]).await) }.boxed()
        }),
        (corrupt, "file `p` of table `t`: it deletes row 30 of s3://lake/a.parquet, which has 30", |table, unit| {
            async move { unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", 30)]).await] }.boxed()
        }),
        (corrupt, "file `p` of table `t`: it deletes row -1 of s3://lake/a.parquet", |table, unit| {
            async move { unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", -1)]).await] }.boxed()
        }),
        (corrupt, "file `p` of table `t`: it has no column with field id 2147483546", |table, unit| {
            async move {
                let bytes = parquet(vec![field(1, "id", DataType::Int64)], vec![Arc::new(Int64Array::from(vec![1]))]);
                unit.positions = vec![table.delete_file("p", bytes, DeleteContent::Positions).await];
            }
            .boxed()
        }),
        (corrupt, "file `p` of table `t`: its column with field id 2147483545 is INT32, not INT64", |table, unit| {
            async move {
                let fields =
                    vec![field(FILE_PATH, "file_path", DataType::Utf8), field(POSITION, "pos", DataType::Int32)];
                let columns: Vec<ArrayRef> =
                    vec![Arc::new(StringArray::from(vec!["x"])), Arc::new(Int32Array::from(vec![1]))];
                let bytes = parquet(fields, columns);
                unit.positions = vec![table.delete_file("p", bytes, DeleteContent::Positions).await];
            }
            .boxed()
        }),
        (corrupt, "file `p` of table `t`: one of its rows has no path or no position", |table, unit| {
            async move {
                let fields =
                    vec![field(FILE_PATH, "file_path", DataType::Utf8), field(POSITION, "pos", DataType::Int64)];
                let columns: Vec<ArrayRef> = vec![
                    Arc::new(StringArray::from(vec!["s3://lake/a.parquet"])),
                    Arc::new(Int64Array::from(vec![None])),
                ];
                let bytes = parquet(fields, columns);
                unit.positions = vec![table.delete_file("p", bytes, DeleteContent::Positions).await];
            }
            .boxed()
        }),
        (corrupt, "file `p` of table `t`: ", |table, unit| {
            async move {
                unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", 3)]).await];
                change(table, "p", |bytes| {
                    let end = bytes.len() - 20;
                    bytes[end - 40..end].fill(0xff);
                })
                .await;
            }
            .boxed()
        }),
        (corrupt, "file `e` of table `t`: it has no column with field id 2", |table, unit| {
            async move {
                let id = (field(1, "id", DataType::Int64), Arc::new(Int64Array::from(vec![1])) as ArrayRef);
                table.keys("e", vec![id], 0, 2).await;
                let ids = vec![1, 2];
                table.deletes[0].content = DeleteContent::Equality { ids, scope: 0, sequence_number: 2 };
                unit.scopes = vec![0];
            }
            .boxed()
        }),
        (
            FragmentErrorKind::FileMissing,
            "file `p` was not found: it holds deleted rows of s3://lake/a.parquet, of table `t`",
            |table, unit| {
                async move {
                    unit.positions = vec![table.positions("p", &[]).await];
                    table.store.delete(&Path::from("p")).await.expect("deleted");
                }
                .boxed()
            },
        ),
        (FragmentErrorKind::FileMissing, "file `v` was not found: it holds deleted rows of", |table, unit| {
            async move {
                unit.vector = Some(table.vector("v", [1]).await);
                table.store.delete(&Path::from("v")).await.expect("deleted");
            }
            .boxed()
        }),
        (FragmentErrorKind::FileChanged, "file `p` has changed: it has ", |table, unit| {
            async move {
                unit.positions = vec![table.positions("p", &[("s3://lake/a.parquet", 3)]).await];
                change(table, "p", |bytes| bytes.push(0)).await;
            }
            .boxed()
        }),
        (
            corrupt,
            "file `a.parquet`: it has 30 rows, its manifest says 31, so that positions of deleted rows mean nothing",
            |table, unit| {
                async move {
                    unit.vector = Some(table.vector("v", [1]).await);
                    unit.rows = 31;
                }
                .boxed()
            },
        ),
    ];
    for (kind, expect, damage) in cases {
        let (found, message, hint) = fault(damage).await;
        assert_eq!(found, kind, "{expect}: {message}");
        assert!(message.starts_with(expect), "`{expect}` is not in: {message}");
        let of_deletes = kind == corrupt && !expect.contains("a.parquet`");
        assert_eq!(hint.is_some(), of_deletes, "{message}: {hint:?}");
    }
}

/// An object that the coordinator has written is no file of the table's: it is asked for again.
#[tokio::test]
async fn damage_in_the_exchange_is_no_damage_of_the_table() {
    use futures::FutureExt;
    let cases: [(&str, Damage); 7] = [
        ("the deletion vector at byte 4: its checksum is wrong", |table, unit| {
            async move {
                unit.vector = Some(table.vector("exchange/deletes", [1, 2]).await);
                change(table, "exchange/deletes", |bytes| bytes[20] ^= 1).await;
            }
            .boxed()
        }),
        ("Object at location exchange/deletes not found", |table, unit| {
            async move {
                unit.vector = Some(table.vector("exchange/deletes", [1, 2]).await);
                table.store.delete(&Path::from("exchange/deletes")).await.expect("deleted");
            }
            .boxed()
        }),
        ("the checksum of its keys is wrong", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change(table, "exchange/deletes", |bytes| bytes[200] ^= 1).await;
            }
            .boxed()
        }),
        ("it has ", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change(table, "exchange/deletes", |bytes| bytes.truncate(100)).await;
            }
            .boxed()
        }),
        ("the keys at byte 6: it has 1000000 bytes of ", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change_keys(table, |bytes, _, _| *bytes = 1_000_000);
            }
            .boxed()
        }),
        ("its keys cannot be decoded: ", |table, unit| {
            async move {
                table.id_digest(unit).await;
                // The sum is right, and the bytes are not.
                change(table, "exchange/deletes", |bytes| bytes[6..].fill(7)).await;
                let sum = crc32fast::hash(&vec![7; table.deletes[0].file.size_bytes as usize - 6]);
                change_keys(table, |_, crc32, _| *crc32 = sum);
            }
            .boxed()
        }),
        ("it has keys of other fields", |table, unit| {
            async move {
                table.id_digest(unit).await;
                change_keys(table, |_, _, ids| *ids = vec![2]);
            }
            .boxed()
        }),
    ];
    for (expect, damage) in cases {
        let mut table = Table::new();
        table.data("a.parquet", 0).await;
        let mut own = unit("a.parquet");
        damage(&mut table, &mut own).await;
        let deletes = table.deletes_of(&own);
        let read = async { futures::try_join!(deletes.deleted(), deletes.keys()) };
        let told = classify(&read.await.map(|_| ()).expect_err(expect));
        assert_eq!(told.kind, FragmentErrorKind::Storage, "{told:?}");
        assert!(told.kind.is_retryable() && told.hint.is_none(), "{told:?}");
        let place = "object `exchange/deletes` of the exchange: ";
        assert!(told.message.starts_with(place) && told.message.contains(expect), "{expect}: {told:?}");
    }
}

impl Table {
    /// Makes a digest of keys of ids, which a unit needs.
    async fn id_digest(&mut self, unit: &mut Unit) {
        let ids = vec![(field(1, "id", DataType::Int64), Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)];
        self.keys("e", ids, 0, 2).await;
        self.digest_keys().await;
        unit.scopes = vec![0];
    }
}

/// Changes length, checksum and fields of the keys in a request.
fn change_keys(table: &mut Table, change: impl FnOnce(&mut u64, &mut u32, &mut Vec<i32>)) {
    if let DeleteContent::Keys { bytes, crc32, ids, .. } = &mut table.deletes[0].content {
        change(bytes, crc32, ids);
    }
}
