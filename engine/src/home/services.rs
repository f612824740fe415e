//! Keys of services: who may append for others, as the home's operators say.

use super::command::{Reply, ServiceChange};
use super::machine::Ctx;
use super::rows::{self, ServiceRow, table};
use super::{DEVICE_BYTES_MAX, SERVICES_MAX};
use crate::authz::service::{ServiceKey, service_id};
use crate::types::kv::KvError;

pub(super) fn change(cx: &mut Ctx<'_>, change: ServiceChange) -> Result<Reply, KvError> {
    match change {
        ServiceChange::Enrol { key, by } => enrol(cx, key, by),
        ServiceChange::End { service } => {
            let at = rows::service_key(&service);
            let Some(row) = rows::get::<ServiceRow>(&*cx.kv, &at)? else {
                return Ok(Reply::NotFound);
            };
            if row.ended_ms.is_none() {
                let ended_ms = Some(cx.now);
                rows::put(cx.kv, &at, &ServiceRow { ended_ms, ..row })?;
            }
            Ok(Reply::Done)
        }
    }
}

fn enrol(cx: &mut Ctx<'_>, key: ServiceKey, by: String) -> Result<Reply, KvError> {
    let at = rows::service_key(&service_id(&key.public));
    if let Some(row) = rows::get::<ServiceRow>(&*cx.kv, &at)? {
        return Ok(match row.key == key && row.ended_ms.is_none() {
            true => Reply::Done,
            false => Reply::invalid("this key is enrolled otherwise or ended; make another one"),
        });
    }
    if let Err(reason) = key.check(cx.now) {
        return Ok(Reply::invalid(reason));
    }
    if by.len() > DEVICE_BYTES_MAX {
        return Ok(Reply::invalid("the operator's name is too long"));
    }
    let (from, to) = ([table::SERVICE], [table::SERVICE + 1]);
    if cx.kv.scan(&from, &to, SERVICES_MAX, false)?.len() >= SERVICES_MAX {
        let reason = format!("{SERVICES_MAX} keys were enrolled here, which is the most");
        return Ok(Reply::invalid(reason));
    }
    let row = ServiceRow {
        key,
        enrolled_ms: cx.now,
        by,
        ended_ms: None,
    };
    rows::put(cx.kv, &at, &row)?;
    Ok(Reply::Done)
}
