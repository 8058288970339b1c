//! Tokens and credentials that end, and are renewed before they do. Nobody waits for a renewal who has a value that is still good.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// Value with an end.
pub(super) trait Ends: Clone {
    /// Tells if it is time to renew it.
    fn is_due(&self) -> bool;

    /// Tells if it is still good.
    fn is_usable(&self) -> bool;

    /// Goes on with the same value for a while, after a renewal that failed.
    fn go_on(&mut self);
}

/// Present value, and a turn to renew it. The value's lock is never held across a wait.
pub(super) struct Renewed<T> {
    present: Mutex<Option<T>>,
    renewing: tokio::sync::Mutex<()>,
}

impl<T: Ends> Renewed<T> {
    pub(super) fn new(first: Option<T>) -> Self {
        Renewed { present: Mutex::new(first), renewing: tokio::sync::Mutex::default() }
    }

    pub(super) fn present(&self) -> Option<T> {
        self.lock().clone()
    }

    /// Puts a value in place of the present one where `is_better` says so of the present one.
    pub(super) fn replace_if(&self, value: T, is_better: impl FnOnce(&T) -> bool) {
        let mut present = self.lock();
        if present.as_ref().is_none_or(is_better) {
            *present = Some(value);
        }
    }

    /// Returns a value that is good now. One caller renews a value that is due. Others go on with it meanwhile, and wait only where it
    /// has ended.
    ///
    /// # Errors
    /// Those of `renew`, where the present value has ended.
    pub(super) async fn get<F: Future<Output = Result<T>>>(
        &self,
        renew: impl FnOnce(Option<T>) -> F,
        on_failure: impl FnOnce(&Error),
    ) -> Result<T> {
        let present = self.present();
        if let Some(fresh) = present.clone().filter(|value| !value.is_due()) {
            return Ok(fresh);
        }
        let _turn = match (self.renewing.try_lock(), present.filter(T::is_usable)) {
            (Ok(turn), _) => turn,
            (Err(_), Some(usable)) => return Ok(usable),
            (Err(_), None) => self.renewing.lock().await,
        };
        let present = self.present();
        if let Some(fresh) = present.clone().filter(|value| !value.is_due()) {
            return Ok(fresh);
        }
        let value = match (renew(present.clone()).await, present.filter(T::is_usable)) {
            (Ok(value), _) => value,
            (Err(error), Some(mut usable)) => {
                on_failure(&error);
                usable.go_on();
                usable
            }
            (Err(error), None) => return Err(error),
        };
        *self.lock() = Some(value.clone());
        Ok(value)
    }

    /// Renews the present value, unless it is another one than the one that was refused.
    ///
    /// # Errors
    /// Those of `renew`.
    pub(super) async fn renew_if<F: Future<Output = Result<T>>>(
        &self,
        is_refused: impl Fn(&T) -> bool,
        renew: impl FnOnce(Option<T>) -> F,
    ) -> Result<()> {
        let _turn = self.renewing.lock().await;
        let present = self.present();
        if present.as_ref().is_some_and(is_refused) {
            let value = renew(present).await?;
            *self.lock() = Some(value);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[derive(Debug, Clone, PartialEq)]
    struct Value {
        number: u32,
        is_due: bool,
        is_usable: bool,
    }

    impl Ends for Value {
        fn is_due(&self) -> bool {
            self.is_due
        }

        fn is_usable(&self) -> bool {
            self.is_usable
        }

        fn go_on(&mut self) {
            self.is_due = false;
        }
    }

    fn value(number: u32, is_due: bool, is_usable: bool) -> Value {
        Value { number, is_due, is_usable }
    }

    #[tokio::test]
    async fn only_a_value_that_has_ended_is_waited_for() {
        let get = |renewed: &Renewed<Value>| {
            renewed
                .get(|_| async { Ok(value(9, false, true)) }, |_| ())
                .now_or_never()
                .map(|got| got.expect("a value").number)
        };
        let check = |first: Value, expect: Option<u32>| {
            let renewed = Renewed::new(Some(first.clone()));
            let (done, wait) = tokio::sync::oneshot::channel::<()>();
            let mut slow = Box::pin(renewed.get(
                |_| async {
                    let _ = wait.await;
                    Ok(value(2, false, true))
                },
                |_| (),
            ));
            assert!(slow.as_mut().now_or_never().is_none(), "the first caller renews");
            assert_eq!(get(&renewed), expect, "{first:?}");
            done.send(()).expect("it waits");
            assert_eq!(slow.now_or_never().expect("renewed").expect("a value").number, 2);
            assert_eq!(get(&renewed), Some(2), "the new value");
        };
        check(value(1, true, true), Some(1));
        check(value(1, true, false), None);
    }

    #[tokio::test]
    async fn a_renewal_that_fails_ends_nothing_that_is_good() {
        let refused = || Error::Setting { catalog: "c".to_owned(), why: "no".to_owned() };
        let renewed = Renewed::new(Some(value(1, true, true)));
        let mut told = 0;
        let kept = renewed.get(|_| async { Err(refused()) }, |_| told += 1).await.expect("still good");
        assert_eq!((kept, told), (value(1, false, true), 1));
        let renewed = Renewed::new(Some(value(1, true, false)));
        assert!(renewed.get(|_| async { Err(refused()) }, |_| ()).await.is_err());
        renewed
            .renew_if(|present| present.number == 7, |_| async { Err(refused()) })
            .await
            .expect("another was refused");
        renewed
            .renew_if(|present| present.number == 1, |_| async { Ok(value(2, false, true)) })
            .await
            .expect("renewed");
        assert_eq!(renewed.present(), Some(value(2, false, true)));
    }
}
