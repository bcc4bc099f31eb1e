//! The outlets that a request names in its `context`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::plug::json::{ENTRY_NOT_EXIST, INVALID_ARGUMENT};

/// The outlets that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RequestContext {
    /// None: the request is about the device as a whole.
    Whole,
    /// These, in this order. The list may be empty.
    These(Vec<usize>),
    /// The list is invalid: methods about outlets get this error, all others run.
    Wrong(i64),
}

impl RequestContext {
    /// Reads the value of `context`, which is ignored without `child_ids`. One id that is not in `ids` makes the whole
    /// list invalid.
    pub(super) fn read(context: &Value, ids: &BTreeMap<String, usize>) -> Self {
        let list = match &context["child_ids"] {
            Value::Null => return Self::Whole,
            Value::Array(list) => list,
            _ => return Self::Wrong(INVALID_ARGUMENT),
        };
        let find = |id: &Value| ids.get(id.as_str().ok_or(INVALID_ARGUMENT)?).copied().ok_or(ENTRY_NOT_EXIST);
        match list.iter().map(find).collect() {
            Ok(outlets) => Self::These(outlets),
            Err(code) => Self::Wrong(code),
        }
    }

    /// The outlets for a method that acts on each named outlet: all of `count`, if none is named.
    pub(super) fn each(&self, count: usize) -> Result<Vec<usize>, i64> {
        match self {
            Self::Whole => Ok((0..count).collect()),
            Self::These(outlets) => Ok(outlets.clone()),
            Self::Wrong(code) => Err(*code),
        }
    }

    /// The outlet for a method that acts on one: the first of the list, or the strip's first without a list. `None` if
    /// the list is empty.
    pub(super) fn first(&self) -> Result<Option<usize>, i64> {
        match self {
            Self::Whole => Ok(Some(0)),
            Self::These(outlets) => Ok(outlets.first().copied()),
            Self::Wrong(code) => Err(*code),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_context_is_followed_passed_over_or_wrong_as_a_whole() {
        let ids = BTreeMap::from([("00".to_owned(), 0), ("01".to_owned(), 1)]);
        let table = [
            (Value::Null, RequestContext::Whole),
            (json!({}), RequestContext::Whole),
            (json!([]), RequestContext::Whole),
            (json!({"children": ["00"]}), RequestContext::Whole),
            (json!({"child_ids": []}), RequestContext::These(vec![])),
            (json!({"child_ids": ["01", "00"]}), RequestContext::These(vec![1, 0])),
            (json!({"child_ids": ["00", "02"]}), RequestContext::Wrong(-14)),
            (json!({"child_ids": ["0"]}), RequestContext::Wrong(-14)),
            (json!({"child_ids": [0]}), RequestContext::Wrong(-3)),
            (json!({"child_ids": {}}), RequestContext::Wrong(-3)),
        ];
        for (context, expected) in table {
            assert_eq!(RequestContext::read(&context, &ids), expected, "{context}");
        }
    }

    #[test]
    fn some_methods_act_on_each_outlet_and_some_on_the_first() {
        let two = RequestContext::These(vec![4, 1]);
        assert_eq!((two.each(6), two.first()), (Ok(vec![4, 1]), Ok(Some(4))));
        assert_eq!(
            (RequestContext::Whole.each(3), RequestContext::Whole.first()),
            (Ok(vec![0, 1, 2]), Ok(Some(0)))
        );
        let nobody = RequestContext::These(vec![]);
        assert_eq!((nobody.each(6), nobody.first()), (Ok(vec![]), Ok(None)));
        let wrong = RequestContext::Wrong(-14);
        assert_eq!((wrong.each(6), wrong.first()), (Err(-14), Err(-14)));
    }
}
