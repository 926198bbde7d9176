"""The verb `jtl rank`: pretrained weights scored on labelled data, without training any."""
